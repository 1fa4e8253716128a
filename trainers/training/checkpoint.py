"""Checkpoints of a training run, and the history of its metrics beside them."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from serving.export.atomic import write_atomic
from serving.wire.errors import one_line
from trainers.training.distribution import is_chief, mean_over_workers
from trainers.training.errors import TrainingError

History = list[dict[str, float]]
HISTORY_FILE = "history.jsonl"
PREFIX = "ckpt-"
# The end of a variable's key in a checkpoint.
ATTRIBUTE = "/.ATTRIBUTES/VARIABLE_VALUE"
# Errors of reading that say nothing about the file.
_PASSING = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.ResourceExhaustedError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnauthenticatedError,
    MemoryError,
)


class Saved(Protocol):
    """A variable as a checkpoint sees it: whole, however it is spread over replicas."""

    shape: Any
    dtype: Any

    def numpy(self) -> Any:
        """Its value."""

    def assign(self, value: Any) -> Any:
        """Give it a value."""


class Checkpointer:
    """The last few checkpoints of a run, each named after its step and written whole or not at all.

    They are written while training goes on, from a copy of the variables. The best one on held-out data is
    kept beside the last few.

    Args:
      variables: everything that training changes, by name.
      folder: a stable folder, the same for the same run.
      keep: how many checkpoints stay.

    Attributes:
      consecutive_skips: steps in a row that were skipped, up to the newest checkpoint.
      best: the step that is kept beside the last few.
      damaged: a line for each checkpoint that could not be read.
    """

    def __init__(self, variables: Mapping[str, Sequence[Saved]], folder: str, *, keep: int):
        self.damaged: list[str] = []
        self.consecutive_skips = tf.Variable(0.0, trainable=False)
        self._named: dict[str, Sequence[Saved]] = {
            "consecutive_skips": [self.consecutive_skips],
            **variables,
        }
        self._writer = futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: futures.Future[None] | None = None
        self._next_best = 0
        self.best = 0
        self._folder = folder
        # All workers take part in saving, and each needs a folder of its own to write to.
        self._scratch = None if is_chief() else tempfile.TemporaryDirectory()
        self._keep = keep

    def restore(self) -> int:
        """Restore the newest whole checkpoint, if there is one; return its step, or 0.

        Raises:
          TrainingError: workers found different checkpoints.
        """
        step = next((step for step in saved_steps(self._folder) if self._is_whole(step)), 0)
        # All must go on from the same step.
        if not _same_on_all_workers(step):
            raise TrainingError(
                f"Workers found different checkpoints (here: step {step} in {self._folder}). "
                "All workers must share one checkpoint folder"
            )
        if step:
            self._read(step)
        return step

    def restore_best(self) -> bool:
        """Restore the checkpoint of the best step, if it is whole for all workers; return whether it is."""
        whole = self.best in saved_steps(self._folder) and self._is_whole(self.best)
        if mean_over_workers(whole) != [1.0]:
            return False
        self._read(self.best)
        return True

    def _read(self, step: int) -> None:
        path = _path(self._folder, step)
        reader = tf.train.load_checkpoint(path)
        wanted = {
            key(name, index): variable
            for name, variables in self._named.items()
            for index, variable in enumerate(variables)
        }
        _check_fit(path, reader, wanted)
        for name, variable in wanted.items():
            variable.assign(reader.get_tensor(name))

    def save(self, step: int, consecutive_skips: tf.Tensor, *, best: int) -> None:
        """Start to write the checkpoint of a step; all workers take part.

        Args:
          step: the number of steps made.
          consecutive_skips: steps in a row that were skipped up to it.
          best: `best` from now on, perhaps this step.

        Raises:
          TrainingError: the checkpoint before could not be written.
        """
        self.finish()
        self.consecutive_skips.assign(consecutive_skips)
        folder = self._scratch.name if self._scratch else self._folder
        values = {name: [variable.numpy() for variable in each] for name, each in self._named.items()}
        self._writing = self._writer.submit(_write, _path(folder, step), values)
        # Until this one is whole, the best one before stays.
        self._next_best = best

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, and remove old ones.

        Raises:
          TrainingError: it could not be written.
        """
        if self._writing:
            written, self._writing = self._writing, None
            try:
                written.result()
            except (tf.errors.OpError, OSError) as error:
                raise TrainingError(
                    f"checkpoints must be written to {self._folder}, got {one_line(error)}"
                ) from error
            self.best = self._next_best
        folder = self._scratch.name if self._scratch else self._folder
        for old in saved_steps(folder)[self._keep :]:
            if old == self.best:
                continue
            # The index first: what is left by a kill is then no checkpoint.
            for file in sorted(_files(folder, old), key=lambda name: not name.endswith(".index")):
                tf.io.gfile.remove(file)

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Wait at the end of the context, also at an error, for the checkpoint that is being written."""
        try:
            yield
        finally:
            self._writer.shutdown()

    def _is_whole(self, step: int) -> bool:
        """Whether every tensor of a checkpoint can be read; a damaged one is kept aside, and said."""
        path = _path(self._folder, step)
        try:
            reader = tf.train.load_checkpoint(path)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)  # compares the checksum
        except _PASSING:
            raise
        # The index is read by Python, which raises almost anything on a damaged file.
        except Exception as error:
            place = "left there"
            if is_chief():
                for file in _files(self._folder, step):
                    tf.io.gfile.rename(file, _aside(file), overwrite=True)
                place = f"kept as {os.path.basename(_aside(path))}"
            self.damaged.append(f"checkpoint {path} is damaged and {place}: {one_line(error)}")
            return False
        return True


def _write(path: str, values: dict[str, list[np.ndarray]]) -> None:
    """Write a checkpoint of values, under the names that the variables have.

    In a thread of its own, because that is outside of any strategy's scope, which would distribute them.
    """
    with tf.device("CPU:0"):
        # One after the other, each in place of its value: memory holds one copy.
        copies = {name: [tf.Variable(each.pop(0)) for _ in range(len(each))] for name, each in values.items()}
        tf.train.Checkpoint(**copies).write(path)


def _check_fit(path: str, reader: Any, wanted: Mapping[str, Saved]) -> None:
    """Check that a checkpoint holds these variables and no others.

    Raises:
      TrainingError: it does not.
    """
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    found = {
        name: (tuple(shape), dtypes[name])
        for name, shape in shapes.items()
        if name.endswith(ATTRIBUTE)  # the others are TensorFlow's own
    }
    own = {name: (tuple(one.shape), tf.as_dtype(one.dtype)) for name, one in wanted.items()}
    if found != own:
        name = min(name for name in {*found, *own} if found.get(name) != own.get(name))
        raise TrainingError(
            f"checkpoint {path} must hold the variables of this training, got {found.get(name)} for {name}, "
            f"which is {own.get(name)} here"
        )


def key(name: str, index: int) -> str:
    """The key in a checkpoint of the variable number `index` of those called `name`."""
    return f"{name}/{index}{ATTRIBUTE}"


def saved_steps(folder: str) -> list[int]:
    """The steps of the checkpoints in a folder, the newest first."""
    # Not by TensorFlow's file `checkpoint`, which loses them all if it is damaged.
    indices = tf.io.gfile.glob(os.path.join(folder, f"{PREFIX}*.index"))
    steps = (os.path.basename(path).removeprefix(PREFIX).removesuffix(".index") for path in indices)
    return sorted((int(step) for step in steps if step.isdecimal()), reverse=True)


def _path(folder: str, step: int) -> str:
    return os.path.join(folder, f"{PREFIX}{step}")


def _files(folder: str, step: int) -> list[str]:
    return tf.io.gfile.glob(f"{_path(folder, step)}.*")


def _aside(path: str) -> str:
    return os.path.join(os.path.dirname(path), f"damaged-{os.path.basename(path)}")


def _same_on_all_workers(step: int) -> bool:
    """Whether all workers bring the same step; every worker gets the same answer."""
    mean, mean_square = mean_over_workers(step, step**2)
    return mean_square == mean**2  # no variance


def best_step(history: History) -> int:
    """The step of the lowest loss on held-out data, the first of equals; 0 before any was evaluated."""
    evaluated = [entry for entry in history if "eval_loss" in entry]
    return int(min(evaluated, key=lambda entry: entry["eval_loss"])["step"]) if evaluated else 0


def write_history(folder: str, history: History) -> None:
    """Write `history.jsonl` into a folder, whole or not at all."""
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    write_atomic(os.path.join(folder, HISTORY_FILE), lines)


def read_history(folder: str, *, until: int) -> History:
    """The logged steps up to `until`, and up to damage; empty if there is no history."""
    path = os.path.join(folder, HISTORY_FILE)
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path, "rb") as file:
        lines = file.read().splitlines()
    entries: History = []
    with contextlib.suppress(ValueError, TypeError, KeyError):  # the weights do not depend on it
        for line in lines:
            entry = json.loads(line)
            if entry["step"] <= until:
                entries.append(entry)
    return entries
