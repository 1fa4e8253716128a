"""What TFX's Trainer hands to a `run_fn`, and what every `run_fn` leaves behind."""

from __future__ import annotations

import hashlib
from importlib import metadata as distributions
from typing import Any, TypeVar

import keras
import tensorflow as tf

from serving.export import Metadata
from trainers.training.config import Job, Section
from trainers.training.loop import write_history

Stage = TypeVar("Stage", bound=Section)


def read(custom_config: dict[str, Any], stage: type[Stage]) -> tuple[Job, Stage]:
    """The job and the trainer's own section from `custom_config` ({"job": JSON, "stage": JSON})."""
    return Job.model_validate_json(custom_config["job"]), stage.model_validate_json(custom_config["stage"])


def training_name(job: Job, stage: Section, *inputs: str) -> str:
    """The name of this training run, under which it keeps checkpoints and logs.

    It is a digest of everything in the configuration that decides the result, and of the data
    (`inputs`, fingerprints): a run that was stopped finds its checkpoints again, and a run with another
    configuration or other data never does.
    """
    own = job.model_dump_json(exclude={"checkpoints", "logs"})
    decisive = "".join([own, stage.model_dump_json(), *inputs])
    return hashlib.sha256(decisive.encode()).hexdigest()[:12]


def finish(fn_args: Any, history: list[dict[str, float]]) -> None:
    """Leaves the history where the Trainer's `model_run` artifact is."""
    write_history(fn_args.model_run_dir, history)


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
        versions={name: distributions.version(name) for name in ("tfx-vim", "tensorflow", "keras")},
    )


def exportable(model: keras.Model, **loaded: Any) -> tf.Module:
    """A model's variables, and SavedModels loaded beside it, for the exporter to hold on to.

    Not the Keras model itself: Keras adds a signature of its own to whatever it is saved in, which
    fails for a model of more than one input.
    """
    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    for name, saved_model in loaded.items():
        setattr(module, name, saved_model)
    return module


def seed_everything(seed: int) -> None:
    """Seeds initial weights and dropout; the order of the data has its own seeds."""
    keras.backend.clear_session()
    # Not 0: with a global seed of 0, tf.data's shuffle takes no tensor for its own seed.
    keras.utils.set_random_seed(seed + 1)
