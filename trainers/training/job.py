"""The common frame of every `run_fn`: reads its configuration, sets up the process, exports the model."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata as distributions
from typing import Any, TypeVar

import keras
import tensorflow as tf

from serving.export.metadata import Metadata
from trainers.training.checkpoint import History, write_history
from trainers.training.config import Job, Section, Train
from trainers.training.distribution import is_chief, open_strategy
from trainers.training.train_state import TrainState, ema_weights

Stage = TypeVar("Stage", bound=Section)


def read(custom_config: dict[str, Any], stage: type[Stage]) -> tuple[Job, Stage]:
    """Parse the job and the trainer's own section from `custom_config` ({"job": JSON, "stage": JSON})."""
    return Job.model_validate_json(custom_config["job"]), stage.model_validate_json(custom_config["stage"])


def training_name(job: Job, stage: Section, *inputs: str) -> str:
    """The name of a training run's folders of checkpoints and logs.

    It is a digest of every configuration key that the result depends on, and of the data (`inputs`,
    fingerprints). A stopped run finds its checkpoints again, also on other devices and with other intervals;
    a run with another result never does.
    """
    own = job.model_dump_json(exclude={"checkpoints", "logs"})
    learned = stage.model_dump_json(exclude={"train": set(Train.OPERATIONAL), "usage_alarm": True})
    decisive = "".join([own, learned, *inputs])
    return hashlib.sha256(decisive.encode()).hexdigest()[:12]


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


@contextmanager
def export_folder(fn_args: Any, history: History, states: Sequence[TrainState]) -> Iterator[str]:
    """Write the history to the `model_run` artifact, and give networks their exported weights in the context.

    Afterwards the precision is float32 again, for whatever else this process runs.

    Yields:
      The folder to export to: the Trainer's own, or a temporary one on workers other than the chief, which
      all have to save so that the chief can.
    """
    try:
        with ema_weights(states):
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
        ground=job.ground,
        versions={name: distributions.version(name) for name in ("tfx-vim", "tensorflow", "keras")},
    )


def exportable(model: keras.Model, **loaded: Any) -> tf.Module:
    """A module that holds a model's variables, and SavedModels loaded beside it.

    Not the Keras model itself: Keras adds a signature of its own to whatever it is saved in, which fails for
    a model of more than one input.
    """
    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    for name, saved_model in loaded.items():
        setattr(module, name, saved_model)
    return module
