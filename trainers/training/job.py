"""The common frame of every `run_fn`: reads its configuration, sets up the process, exports the model."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import keras
import tensorflow as tf
from rich.console import Console

from serving.export.atomic import write_atomic
from serving.export.metadata import Metadata, library_versions
from serving.export.records import naming_damage
from serving.export.versions import versions
from serving.wire.errors import is_out_of_memory, one_line
from trainers.training import warm_start as weights
from trainers.training.alarms import Alarm, summary
from trainers.training.checkpoint import History, write_history
from trainers.training.config import PUSHED, Job, Section, Train
from trainers.training.distribution import is_chief, open_strategy
from trainers.training.errors import TrainingError
from trainers.training.examples import Split
from trainers.training.tensorboard import write_text
from trainers.training.train_state import TrainState, ema_weights

# Beside the history: what the report warns of.
ALARMS_FILE = "alarms.json"

Stage = TypeVar("Stage", bound=Section)


def read(custom_config: dict[str, Any], stage: type[Stage]) -> tuple[Job, Stage]:
    """Parse the job and the trainer's own section from `custom_config` ({"job": JSON, "stage": JSON})."""
    return Job.model_validate_json(custom_config["job"]), stage.model_validate_json(custom_config["stage"])


class Folders(NamedTuple):
    """Where a training run keeps its checkpoints and TensorBoard's logs."""

    checkpoints: str
    logs: str


def training_folders(job: Job, stage: Section, *inputs: str) -> Folders:
    """The folders of a training run: its first day, what was changed against the preset, and a digest.

    A run that was stopped finds its folders by the digest (`training_digest`). The configuration is in the
    logs as text.
    """
    digest = training_digest(job, stage, *inputs)
    known = tf.io.gfile.glob(os.path.join(job.checkpoints, f"*{digest}"))
    words = [today(), job.label, digest]
    name = os.path.basename(min(known).rstrip("/")) if known else "_".join(filter(None, words))
    folders = Folders(os.path.join(job.checkpoints, name), os.path.join(job.logs, name))
    sections = {"job": job, "stage": stage}
    write_text(
        folders.logs,
        {f"configuration/{part}": one.model_dump_json(indent=2) for part, one in sections.items()},
    )
    return folders


def today() -> str:
    """The date, as 2026-11-27."""
    return datetime.date.today().isoformat()


def training_digest(job: Job, stage: Section, *inputs: str) -> str:
    """A digest of every configuration key that a training's result depends on, of its code and its data.

    It is the same on other devices and with other intervals.

    Args:
      job: with the fingerprint of the code.
      stage: the trainer's own section.
      inputs: fingerprints of the data.
    """
    own = job.model_dump_json(exclude={"checkpoints", "logs", "label", "max_image_pixels"})
    # `job.start` tells the weights of a warm start, wherever they lie.
    aside = {*Train.OPERATIONAL, "warm_start"}
    kept = ("usage_alarm", "sampler", "logged_samples")
    learned = stage.model_dump_json(exclude={"train": aside, **dict.fromkeys(kept, True)})
    decisive = "".join([own, learned, *inputs])
    return hashlib.sha256(decisive.encode()).hexdigest()[:8]


def prepare(seed: int, train: Train) -> tf.distribute.Strategy:
    """Set up the devices and the precision, and seed initial weights and dropout.

    The order of the data has its own seeds.
    """
    strategy = open_strategy(train)
    keras.backend.clear_session()
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16" if train.precision == "bfloat16" else "float32")
    # Not 0: with a global seed of 0, tf.data's shuffle takes no tensor for its own seed.
    keras.utils.set_random_seed(seed + 1)
    return strategy


def warm_start(job: Job, train: Train, states: Mapping[str, TrainState], *, stage: str) -> None:
    """Give networks the weights that `train.warm_start` names, if it names any, and say which."""
    if train.warm_start:
        pushed = job.start == PUSHED
        if pushed and not versions(train.warm_start):
            taken = f"begins anew: nothing was pushed to {train.warm_start} yet"
        else:
            version = "" if pushed else job.start
            taken = weights.load(train.warm_start, states, stage=stage, version=version)
        Console(stderr=True, soft_wrap=True).print(f"{stage}: {taken}", markup=False, highlight=False)


@contextmanager
def explained(*splits: Split) -> Iterator[None]:
    """Say what to do where TensorFlow says only that a step failed.

    Raises:
      DamagedFile: a file of one of the splits is damaged.
      TrainingError: memory ran out.
    """
    try:
        with naming_damage([file for split in splits for file in split.files]):
            yield
    except tf.errors.ResourceExhaustedError as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            "memory must hold a training step: lower train.batch_size, raise "
            "train.gradient_accumulation_steps or set train.gradient_checkpointing, "
            f"got {one_line(error)}"
        ) from error


@contextmanager
def export_folder(
    fn_args: Any, history: History, states: Sequence[TrainState], alarms: Sequence[Alarm] = ()
) -> Iterator[str]:
    """Write history and alarms to the `model_run` artifact, and give networks their exported weights.

    The weights are theirs while the context lasts.

    Afterwards the precision is float32 again, for whatever else this process runs.

    Yields:
      The folder to export to: the Trainer's own, or a temporary one on workers other than the chief, which
      all have to save so that the chief can.
    """
    try:
        with ema_weights(states):
            if is_chief():
                write_history(fn_args.model_run_dir, history)
                lines = json.dumps(summary(history, alarms), indent=2)
                write_atomic(os.path.join(fn_args.model_run_dir, ALARMS_FILE), lines)
                yield fn_args.serving_model_dir
            else:
                with tempfile.TemporaryDirectory() as scratch:
                    yield os.path.join(scratch, "model")
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


def describe(
    kind: str, job: Job, *, tokens: int = 0, codebook_size: int = 0, class_names: tuple[str, ...]
) -> Metadata:
    """The metadata of a model that this job trained."""
    return Metadata(
        kind=kind,
        preset=job.preset,
        image_size=job.image_size,
        tokens=tokens,
        codebook_size=codebook_size,
        class_names=class_names,
        ground=job.ground,
        max_image_pixels=job.max_image_pixels,
        versions=library_versions(),
    )
