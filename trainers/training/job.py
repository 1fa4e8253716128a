"""What TFX's Trainer hands to a `run_fn`, and what every `run_fn` leaves behind."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata as distributions
from typing import Any, TypeVar

import keras
import tensorflow as tf

from serving.export import Metadata
from trainers.training.config import Job, Section, Train
from trainers.training.distribution import is_chief, open_strategy
from trainers.training.loop import write_history
from trainers.training.step import Learner, averages_in_place

Stage = TypeVar("Stage", bound=Section)


def read(custom_config: dict[str, Any], stage: type[Stage]) -> tuple[Job, Stage]:
    """The job and the trainer's own section from `custom_config` ({"job": JSON, "stage": JSON})."""
    return Job.model_validate_json(custom_config["job"]), stage.model_validate_json(custom_config["stage"])


def training_name(job: Job, stage: Section, *inputs: str) -> str:
    """The name of this training run, under which it keeps checkpoints and logs.

    It is a digest of everything in the configuration that decides the result, and of the data
    (`inputs`, fingerprints): a run that was stopped finds its checkpoints again, on other devices and in
    another rhythm too, and a run that would come to another result never does.
    """
    own = job.model_dump_json(exclude={"checkpoints", "logs"})
    learned = stage.model_dump_json(exclude={"train": set(Train.OPERATIONAL), "usage_alarm": True})
    decisive = "".join([own, learned, *inputs])
    return hashlib.sha256(decisive.encode()).hexdigest()[:12]


def prepare(seed: int, train: Train) -> tf.distribute.Strategy:
    """Opens the devices, sets the precision, and seeds initial weights and dropout.

    The order of the data has its own seeds.
    """
    strategy = open_strategy(train)
    keras.backend.clear_session()
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16" if train.precision == "bfloat16" else "float32")
    # Not 0: with a global seed of 0, tf.data's shuffle takes no tensor for its own seed.
    keras.utils.set_random_seed(seed + 1)
    return strategy


@contextmanager
def finished(fn_args: Any, history: list[dict[str, float]], learners: Sequence[Learner]) -> Iterator[str]:
    """Leaves the history with the `model_run` artifact; within it, networks hold what is to be exported.

    Afterwards precision is float32 again, for whatever else this process does.

    Yields:
      The folder to export to: the Trainer's own, or one that is thrown away on hosts other than the
      chief, which all have to save so that one of them can.
    """
    try:
        with averages_in_place(learners):
            if is_chief():
                write_history(fn_args.model_run_dir, history)
                yield fn_args.serving_model_dir
            else:
                with tempfile.TemporaryDirectory() as scratch:
                    yield scratch
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
