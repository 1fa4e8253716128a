"""Checkpoints of a training run, and the history of its metrics beside them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from serving.export.atomic import write_atomic
from trainers.training.distribution import is_chief
from trainers.training.errors import TrainingError

History = list[dict[str, float]]
HISTORY_FILE = "history.jsonl"


class Checkpointer:
    """The last few checkpoints of a run, each named after its step and written whole or not at all.

    Args:
      variables: everything that training changes, by name.
      folder: a stable folder, the same for the same run.
      keep: how many checkpoints stay.
    """

    def __init__(self, variables: Mapping[str, Sequence[keras.Variable]], folder: str, *, keep: int):
        # Plain lists: for a Keras model, tf.train.Checkpoint tracks neither layers in a list nor seeds.
        tensors = {name: [variable.value for variable in each] for name, each in variables.items()}
        self.consecutive_skips = tf.Variable(0.0, trainable=False)
        self._checkpoint = tf.train.Checkpoint(consecutive_skips=self.consecutive_skips, **tensors)
        self._folder = folder
        self._newest = tf.train.latest_checkpoint(folder)
        # All workers take part in saving, and each needs a folder of its own to write to.
        self._scratch = None if is_chief() else tempfile.TemporaryDirectory()
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, self._scratch.name if self._scratch else folder, max_to_keep=keep
        )

    def restore(self) -> int:
        """Restore the newest checkpoint, if there is one; return its step, or 0.

        Raises:
          TrainingError: workers found different checkpoints.
        """
        step = int(self._newest.rpartition("-")[2]) if self._newest else 0
        # Checked first, because all workers take part in restoring.
        if not _same_on_all_workers(step):
            raise TrainingError(
                f"Workers found different checkpoints (here: step {step} in {self._folder}). "
                "All workers must share one checkpoint folder"
            )
        if self._newest:
            self._checkpoint.restore(self._newest).assert_consumed()
        return step

    def save(self, step: int, consecutive_skips: tf.Tensor) -> None:
        """Write the checkpoint of a step, with how many steps in a row were skipped up to it."""
        self.consecutive_skips.assign(consecutive_skips)
        self._manager.save(checkpoint_number=step)


def _same_on_all_workers(step: int) -> bool:
    """Whether all workers bring the same step; every worker gets the same answer."""
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True

    def reduced(own: tf.Tensor) -> tf.Tensor:
        # A tensor of each replica: a value that is the same on all cannot be reduced.
        own = tf.identity(own)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, own)

    @tf.function
    def means(own: tf.Tensor) -> tf.Tensor:
        return strategy.experimental_local_results(strategy.run(reduced, args=(own,)))[0]

    mean, mean_square = means(tf.constant([step, step**2], tf.float64)).numpy()
    return mean_square == mean**2  # no variance


def write_history(folder: str, history: History) -> None:
    """Write `history.jsonl` into a folder, whole or not at all."""
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    write_atomic(os.path.join(folder, HISTORY_FILE), lines)


def read_history(folder: str, *, until: int) -> History:
    """The logged steps up to `until`; empty if there is no history."""
    path = os.path.join(folder, HISTORY_FILE)
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        entries = [json.loads(line) for line in file.read().splitlines()]
    return [entry for entry in entries if entry["step"] <= until]
