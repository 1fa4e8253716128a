"""The training loop that the three trainers share.

One `tf.function` runs several steps; between its calls the host shows progress, logs, evaluates and
writes checkpoints. A checkpoint is named after its step, and holds how many were skipped in a row, the
networks, the optimizers and the averages; the data follows from the step (`trainers.training.examples`).
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import keras
import tensorflow as tf

from trainers.training.config import Train
from trainers.training.distribution import is_chief
from trainers.training.errors import TrainingError
from trainers.training.progress import Progress
from trainers.training.step import Batch, Metrics

# Steps in a row that may come out not finite before the run is given up.
MOST_SKIPPED = 10


class Alarm(NamedTuple):
    """A metric that should not fall under a bound."""

    metric: str
    below: float


def fit(
    title: str,
    train: Train,
    *,
    step: Callable[[Batch], Metrics],
    batches: Callable[[int, tf.distribute.InputContext], tf.data.Dataset],
    state: Mapping[str, Sequence[keras.Variable]],
    evaluate: Callable[[], Metrics],
    checkpoints: str,
    logs: str,
    alarms: Sequence[Alarm] = (),
) -> list[dict[str, float]]:
    """Trains for `train.steps` steps under the current strategy, going on from the newest checkpoint.

    Args:
      title: what the progress bar calls the model.
      train: length and rhythm.
      step: one step of training on one replica's share of a batch: changes the variables, returns
        scalars that are the same on every replica, `skipped` (0 or 1) among them.
      batches: from a step (counted from 0) and a host's place among all hosts to that host's endless
        batches from there on, of the size that one replica takes.
      state: every variable that `step` changes, by name: weights, statistics, random state, slots.
      evaluate: scalars on held-out data, `loss` among them, taken before every checkpoint and logged
        as `eval_<name>`; weights whose loss is not finite are never saved.
      checkpoints: a stable folder, the same for the same run; holds the history as well.
      logs: TensorBoard's folder.
      alarms: metrics to watch; a fall under the bound is said once.

    Returns:
      The history: one mapping a logged step. Metrics are means over the steps that were not skipped;
      `skipped` counts the others.

    Raises:
      TrainingError: ten steps in a row, or the loss on held-out data, were not finite; or hosts do not find
        the same checkpoint.
    """
    strategy = tf.distribute.get_strategy()
    keeper = _Keeper(train, state, checkpoints)
    done = first = keeper.restore()
    history = _read_history(checkpoints, until=first)
    compiled = tf.function(step, jit_compile=True, autograph=False) if train.jit_compile else step

    # A function of its own: it stands twice below, and is traced once. Without autograph, whose reading of
    # every layer's source took a third of the time to trace.
    @partial(tf.function, autograph=False)
    def one(iterator: tf.data.Iterator) -> Metrics:
        results = strategy.run(compiled, args=(next(iterator),))
        return {name: strategy.experimental_local_results(value)[0] for name, value in results.items()}

    @tf.function
    def several(iterator: tf.data.Iterator, count: tf.Tensor, streak: tf.Tensor) -> tuple[Metrics, ...]:
        """Sums of metrics, the steps skipped in a row so far, and the step (from 1) that was one too many."""
        sums = one(iterator)
        streak = sums["skipped"] * (streak + 1.0)
        given_up = tf.where(streak >= MOST_SKIPPED, 1, 0)
        for index in tf.range(1, count):
            metrics = one(iterator)
            sums = tf.nest.map_structure(tf.add, sums, metrics)
            streak = metrics["skipped"] * (streak + 1.0)
            given_up = tf.where((streak >= MOST_SKIPPED) & (given_up == 0), index + 1, given_up)
        return sums, streak, given_up

    iterator = iter(strategy.distribute_datasets_from_function(lambda host: batches(first, host)))
    streak = keeper.streak.read_value()
    running = _Running()
    armed: set[Alarm] = set(alarms)
    writer = tf.summary.create_file_writer(logs) if is_chief() else tf.summary.create_noop_writer()
    with Progress(title, total=train.steps, done=first) as progress, writer.as_default():
        while done < train.steps:
            # To the next multiple: a run that was stopped in another rhythm has to meet the marks again.
            count = min(train.steps_per_call - done % train.steps_per_call, train.steps - done)
            sums, streak, given_up = several(iterator, tf.constant(count), streak)
            if given_up:
                raise TrainingError(
                    f"{title}: {MOST_SKIPPED} steps in a row were not finite, up to step "
                    f"{done + int(given_up)}; they changed nothing"
                )
            done += count
            progress.update(done, running.add(sums, count))

            at_checkpoint = done == train.steps or done % train.checkpoint_every == 0
            if at_checkpoint or done % train.log_every == 0:
                entry = running.take() | {"step": done, "steps_per_second": progress.rate}
                if at_checkpoint:
                    entry |= {f"eval_{name}": float(value) for name, value in evaluate().items()}
                    if not math.isfinite(entry["eval_loss"]):
                        raise TrainingError(
                            f"{title}: the held-out loss is {entry['eval_loss']} at step {done}"
                        )
                for alarm in alarms:
                    if alarm.metric not in entry:  # every step was skipped
                        continue
                    low = entry[alarm.metric] < alarm.below
                    if low and alarm in armed:
                        progress.say(
                            f"{alarm.metric} {entry[alarm.metric]:.3g} is under {alarm.below:.3g} "
                            f"at step {done}"
                        )
                    armed = armed - {alarm} if low else armed | {alarm}
                history.append(entry)
                for name, value in entry.items():
                    tf.summary.scalar(name, value, step=done)
            if at_checkpoint:
                # The history first: whatever it holds beyond the checkpoint is cut off on resume.
                if is_chief():
                    write_history(checkpoints, history)
                keeper.save(done, streak)
    return history


class _Running:
    """Sums since the last logged step."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = 0

    def add(self, sums: Metrics, steps: int) -> dict[str, float]:
        """Takes in the sums of one call; returns the means of that call."""
        values = {name: float(value) for name, value in sums.items()}
        self._steps += steps
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        return _means(values, steps)

    def take(self) -> dict[str, float]:
        """The means since the last call of this, and the number of skipped steps."""
        means = _means(self._sums, self._steps)
        self._sums, self._steps = {}, 0
        return means


def _means(sums: Mapping[str, float], steps: int) -> dict[str, float]:
    """Means over the steps that were not skipped; where all were, there are none."""
    skipped = sums["skipped"]
    taken = steps - skipped
    means = {name: value / taken for name, value in sums.items()} if taken else {}
    return {**means, "skipped": skipped}


class _Keeper:
    """Checkpoints of a run: the last few, each whole or not at all."""

    def __init__(self, train: Train, state: Mapping[str, Sequence[keras.Variable]], folder: str):
        # As plain lists: in a Keras model, a checkpoint follows neither the layers of a list nor seeds.
        tensors = {name: [variable.value for variable in variables] for name, variables in state.items()}
        self.streak = tf.Variable(0.0, trainable=False)
        self._checkpoint = tf.train.Checkpoint(streak=self.streak, **tensors)
        self._folder = folder
        self._newest = tf.train.latest_checkpoint(folder)
        # All hosts take part in saving, and each must have a place of its own to write to.
        self._scratch = None if is_chief() else tempfile.TemporaryDirectory()
        self._manager = tf.train.CheckpointManager(
            self._checkpoint,
            self._scratch.name if self._scratch else folder,
            max_to_keep=train.keep_checkpoints,
        )

    def restore(self) -> int:
        """Goes back to the newest checkpoint, if there is one; returns its step, or 0.

        Raises:
          TrainingError: another host found another one.
        """
        step = int(self._newest.rpartition("-")[2]) if self._newest else 0
        # First, for all hosts take part in restoring.
        if not _alike_on_all_hosts(step):
            raise TrainingError(
                f"this host found the checkpoint of step {step} in {self._folder}, and another one another; "
                "all hosts need the same folder"
            )
        if self._newest:
            self._checkpoint.restore(self._newest).assert_consumed()
        return step

    def save(self, step: int, streak: tf.Tensor) -> None:
        """Writes the checkpoint of a step, up to which `streak` steps in a row were skipped."""
        self.streak.assign(streak)
        self._manager.save(checkpoint_number=step)


def _alike_on_all_hosts(step: int) -> bool:
    """Whether all workers bring the same step: the same answer on each."""
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True

    def reduced(own: tf.Tensor) -> tf.Tensor:
        # A tensor of each replica's own: one that all have alike cannot be reduced.
        own = tf.identity(own)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, own)

    @tf.function
    def means(own: tf.Tensor) -> tf.Tensor:
        return strategy.experimental_local_results(strategy.run(reduced, args=(own,)))[0]

    mean, mean_square = means(tf.constant([step, step**2], tf.float64)).numpy()
    return mean_square == mean**2  # no variance


def write_history(folder: str, history: list[dict[str, float]]) -> None:
    """Writes `history.jsonl` into a folder, whole or not at all."""
    tf.io.gfile.makedirs(folder)
    path = os.path.join(folder, "history.jsonl")
    with tf.io.gfile.GFile(path + ".part", "w") as file:
        file.write("".join(json.dumps(entry) + "\n" for entry in history))
    tf.io.gfile.rename(path + ".part", path, overwrite=True)


def _read_history(folder: str, *, until: int) -> list[dict[str, float]]:
    path = os.path.join(folder, "history.jsonl")
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        entries = [json.loads(line) for line in file.read().splitlines()]
    return [entry for entry in entries if entry["step"] <= until]
