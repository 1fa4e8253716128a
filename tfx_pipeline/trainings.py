"""The trainings of the pipeline: what runs each, and with which part of the configuration."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import tensorflow as tf

from serving.export.atomic import is_remote
from serving.wire.errors import one_line
from tfx_pipeline import code
from tfx_pipeline.config import Config, ConfigError
from trainers.training import warm_start
from trainers.training.config import PUSHED, Job
from trainers.training.errors import TrainingError


class Training(NamedTuple):
    """The dotted path of a module with a `run_fn`, and its section of the configuration."""

    module: str
    section: str

    @property
    def run_fn(self) -> str:
        """The dotted path of the function that trains and exports."""
        return f"{self.module}.run_fn"


TRAININGS = {
    "tokenizer": Training("trainers.vit_vqgan.trainer", "stage1"),
    "classifier": Training("trainers.classifier.trainer", "classifier"),
    "vim": Training("trainers.vim.trainer", "stage2"),
}


# The folders for a model server, by training.
SERVED_AS = {"tokenizer": "vit_vqgan", "classifier": "classifier", "vim": "vim"}


def of(config: Config) -> list[str]:
    """The names of the trainings of a configuration: what is imported has none."""
    return [name for name, one in TRAININGS.items() if hasattr(getattr(config, one.section), "train")]


def fingerprint(name: str) -> str:
    """The fingerprint of the code of a training, and of the libraries that this process has."""
    return code.reached_from(TRAININGS[name].module).training


def custom_config(
    config: Config, name: str, run_dir: str, code_version: str = "", *, serving_dir: str = ""
) -> dict[str, str]:
    """What the `run_fn` of a training gets: `{"job": JSON, "stage": JSON}`.

    It has only the part of the configuration that it reads, so that after a change elsewhere the trained
    model is still cached.

    Args:
      config: the run's configuration.
      name: one of `TRAININGS`.
      run_dir: the run's folder.
      serving_dir: the folder that a model server watches; `serving` in the run's folder by default.
      code_version: `fingerprint` where the run was compiled; this process's by default.

    Raises:
      ConfigError: `train.warm_start` has no weights, or they are this run's own.
    """
    section = TRAININGS[name].section
    served = serving_dir or os.path.join(run_dir, "serving")
    stage, start = _started(getattr(config, section), section, name, run_dir, served)
    job = Job(
        preset=config.name,
        seed=config.seed,
        image_size=config.data.image_size,
        augmentation=config.data.augmentation,
        checkpoints=os.path.join(run_dir, "checkpoints", name),
        logs=os.path.join(run_dir, "logs", name),
        ground=config.data.ground,
        max_image_pixels=config.export.max_image_pixels,
        code=code_version or fingerprint(name),
        start=start,
        label=config.label("seed", "data", section),
    )
    return {"job": job.model_dump_json(), "stage": stage.model_dump_json()}


def _started(stage: Any, section: str, name: str, run_dir: str, served: str) -> tuple[Any, str]:
    """A trainer's section with the path of the weights that it begins with, and their fingerprint or "".

    Both are settled here, so that the cache notices other weights and all workers take the same; but for the
    last pushed model, which is whatever is there when the training begins.

    Raises:
      ConfigError: there are no such weights, or they are this run's own, which change as it trains.
    """
    folder = stage.train.warm_start
    if not folder:
        return stage, ""
    key = f"{section}.train.warm_start"
    if folder == PUSHED:
        # By name alone: what is pushed at the end of a run must not make its trainings run again.
        train = stage.train.model_copy(update={"warm_start": os.path.join(served, SERVED_AS[name])})
        return stage.model_copy(update={"train": train}), PUSHED
    if not is_remote(folder):
        folder, home = os.path.realpath(folder), os.path.realpath(run_dir)
        if os.path.commonpath([folder, home]) == home:
            raise ConfigError(f"{key} must be outside of the run's own folder, got {folder!r}")
    try:
        start = warm_start.find(folder, stage=name)
        train = stage.train.model_copy(update={"warm_start": start.path})
        return stage.model_copy(update={"train": train}), start.version
    except TrainingError as error:
        raise ConfigError(f"{section}.{error}") from error
    except (OSError, tf.errors.OpError) as error:
        raise ConfigError(f"{key} must be readable, got {folder!r}: {one_line(error)}") from error
