"""Warm start: a training begins with the weights of an earlier one, for fine-tuning.

The start is a run's folder, whose newest checkpoint has the discriminator too, or a SavedModel that a trainer
of this project exported: its folder, or the one of its versions. Optimizers begin anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from serving.export.fingerprint import fingerprint
from serving.export.versions import SAVED_MODEL, versions
from serving.wire.errors import one_line
from trainers.training.checkpoint import PREFIX, key, saved_steps
from trainers.training.errors import TrainingError
from trainers.training.train_state import TrainState


class Start(NamedTuple):
    """Where weights come from: a SavedModel's folder, or a checkpoint's path without its endings."""

    path: str
    is_checkpoint: bool

    @property
    def version(self) -> str:
        """A digest of the weights."""
        if not self.is_checkpoint:
            return fingerprint(self.path)
        with tf.io.gfile.GFile(f"{self.path}.index", "rb") as file:  # it holds a checksum of each tensor
            return hashlib.sha256(file.read()).hexdigest()[:16]


def find(folder: str, *, stage: str) -> Start:
    """Find the newest weights of a stage ("tokenizer", "classifier", "vim") at what `train.warm_start` names.

    Raises:
      TrainingError: there are none.
    """
    if tf.io.gfile.exists(f"{folder}.index"):
        return Start(folder, is_checkpoint=True)
    for place in (folder, *versions(folder).values()):
        if tf.io.gfile.exists(os.path.join(place, SAVED_MODEL)):
            return Start(place, is_checkpoint=False)
    checkpoints = [
        (tf.io.gfile.stat(f"{path}.index").mtime_nsec, path)
        for training in tf.io.gfile.glob(os.path.join(folder, "checkpoints", stage, "*"))
        for path in [os.path.join(training, f"{PREFIX}{step}") for step in saved_steps(training)[:1]]
    ]
    if not checkpoints:
        raise TrainingError(
            f"train.warm_start must be a SavedModel, a folder of its versions, or a run's folder with "
            f"checkpoints/{stage}, got {folder!r}"
        )
    return Start(max(checkpoints)[1], is_checkpoint=True)


def load(folder: str, states: Mapping[str, TrainState], *, stage: str, version: str = "") -> str:
    """Give networks the weights that `train.warm_start` names, and their averages too.

    Args:
      folder: the key's value.
      states: by the name that a checkpoint has for them. The first is the one that a SavedModel holds, and it
        must fit. Of the others, those whose weights are missing or of other shapes keep their own.
      stage: "tokenizer", "classifier" or "vim".
      version: what `Start.version` must be, if given.

    Returns:
      A line that says what was taken.

    Raises:
      TrainingError: there are no weights, they cannot be read, or they are of another model.
    """
    start = find(folder, stage=stage)
    if version and start.version != version:
        raise TrainingError(
            f"train.warm_start must be the weights that the run began with, {version}, got {start.version} "
            f"in {start.path}"
        )
    try:
        read = _of_checkpoint(start.path) if start.is_checkpoint else _of_saved_model(start.path)
        values = {name: read(name, len(state.network.variables)) for name, state in states.items()}
    except (tf.errors.OpError, OSError, ValueError, AttributeError) as error:
        raise TrainingError(
            f"train.warm_start must be weights of this project, got {start.path}: {one_line(error)}"
        ) from error
    taken = []
    for index, (name, state) in enumerate(states.items()):
        misfit = _misfit(state.network, values[name])
        if misfit and index == 0:
            raise TrainingError(
                f"train.warm_start must be of the same model, got {start.path}: {misfit} there"
            )
        if not misfit:
            state.start_from(values[name])
            taken.append(name)
    anew = [name for name in states if name not in taken]
    return f"starts with the {' and '.join(taken)} of {start.path}" + (
        f"; {' and '.join(anew)} anew" if anew else ""
    )


# The first arrays of a network, as many as it has variables: more than none if it is there at all.
_Read = Callable[[str, int], Sequence[np.ndarray]]


def _of_saved_model(path: str) -> _Read:
    held = [variable.numpy() for variable in tf.saved_model.load(path).variables_of_model]
    first = iter([held])
    return lambda name, count: next(first, [])


def _of_checkpoint(path: str) -> _Read:
    reader = tf.train.load_checkpoint(path)
    # A network's own variables come first, before those of its optimizer.
    keys = reader.get_variable_to_shape_map()

    def read(name: str, count: int) -> Sequence[np.ndarray]:
        wanted = [key(name, index) for index in range(count)]
        return [reader.get_tensor(one) for one in wanted if one in keys]

    return read


def _misfit(network: keras.Model, values: Sequence[np.ndarray]) -> str:
    """What does not fit, "" if all does."""
    for variable, value in zip(network.variables, values, strict=False):
        if tuple(variable.shape) != value.shape:
            return f"{variable.path} is {list(variable.shape)} here and {list(value.shape)}"
    if len(network.variables) != len(values):
        return f"{network.name} has {len(network.variables)} variables here and {len(values)}"
    return ""
