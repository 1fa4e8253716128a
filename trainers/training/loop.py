"""The training loop that the three trainers share.

One `tf.function` runs several steps; between its calls the host shows progress, logs, evaluates and writes
checkpoints. The position in the data is no state: it follows from the step (`trainers.training.examples`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import tensorflow as tf

from trainers.training.alarms import Alarm, Watch
from trainers.training.checkpoint import (
    Checkpointer,
    History,
    Saved,
    best_step,
    read_history,
    write_history,
)
from trainers.training.config import Train
from trainers.training.distribution import is_chief, mean_over_workers
from trainers.training.errors import TrainingError
from trainers.training.preemption import Preemption
from trainers.training.progress import Progress
from trainers.training.step import Batch, Metrics
from trainers.training.tensorboard import TensorBoard

# Steps in a row that may be skipped before the run is stopped.
MAX_CONSECUTIVE_SKIPS = 10


def fit(
    title: str,
    train: Train,
    *,
    step: Callable[[Batch], Metrics],
    batches: Callable[[int, tf.distribute.InputContext], tf.data.Dataset],
    variables: Mapping[str, Sequence[Saved]],
    evaluate: Callable[[], Metrics],
    checkpoints: str,
    logs: str,
    alarms: Sequence[Alarm] = (),
    pictures: Callable[[], Mapping[str, tf.Tensor]] = dict,
) -> History:
    """Train for `train.steps` steps under the current strategy, resuming from the newest checkpoint.

    At the end the variables have the values that `train.export` names.

    Args:
      title: what the progress bar calls the model.
      train: length and intervals.
      step: one training step on one replica's share of a batch: changes the variables, returns scalars that
        are the same on every replica, `skipped` (0 or 1) among them.
      batches: from a step (counted from 0) and an input context to one host's endless batches from that step
        on, of the size that one replica takes.
      variables: everything that `step` changes, by name: weights, statistics, random state, slots.
      evaluate: scalars on held-out data, `loss` among them, taken before every checkpoint but those of a
        signal, and logged as `eval_<name>`; weights whose loss is not finite are not saved.
      checkpoints: a stable folder, the same for the same run; it also holds the history.
      logs: TensorBoard's folder: `train` and `held_out` in it are two runs with the same tags, whose curves
        lie over each other.
      alarms: metrics to watch; each is reported once when it leaves its bounds.
      pictures: images [K, H, W, 3] in [0, 1] by name, for TensorBoard, made after every evaluation.

    Returns:
      The history: one mapping a logged step. Metrics are means over the steps that were not skipped;
      `skipped` counts the others.

    Raises:
      TrainingError: ten steps in a row were not finite, or the loss on held-out data was not; or workers
        found different checkpoints.
      Preempted: SIGTERM came; the checkpoint is saved.
    """
    strategy = tf.distribute.get_strategy()
    checkpointer = Checkpointer(variables, checkpoints, keep=train.keep_checkpoints)
    done = first = checkpointer.restore()
    history = read_history(checkpoints, until=first)
    checkpointer.best = best_step(history)
    run_steps = _compile(step, jit_compile=train.jit_compile)
    iterator = iter(strategy.distribute_datasets_from_function(lambda host: batches(first, host)))
    consecutive_skips = checkpointer.consecutive_skips.read_value()
    running = _RunningMeans()
    clock = _Clock(train.checkpoint_minutes)
    with (
        Progress(title, total=train.steps, done=first) as progress,
        TensorBoard(logs) as board,
        Preemption() as stop,
        checkpointer.closing(),
    ):
        watch = Watch(alarms, progress.say)
        for line in checkpointer.damaged:
            progress.say(line)
        while done < train.steps:
            # Realign to `steps_per_call` after a resume with another value.
            count = min(train.steps_per_call - done % train.steps_per_call, train.steps - done)
            sums, consecutive_skips, diverged_at = run_steps(iterator, tf.constant(count), consecutive_skips)
            if diverged_at:
                raise TrainingError(
                    f"{title}: loss or gradients were not finite for {MAX_CONSECUTIVE_SKIPS} steps in a row, "
                    f"up to step {done + int(diverged_at)}; the weights are those from before"
                )
            done += count
            progress.update(done, running.add(sums, count))

            # Of any worker: all save, and all stop.
            stopped, overdue = map(bool, mean_over_workers(stop.requested, clock.is_due()))
            regular = done == train.steps or done % train.checkpoint_every == 0
            saved = regular or stopped or overdue
            if saved or done % train.log_every == 0:
                entry = running.take() | {"step": done, "steps_per_second": progress.rate}
                # Whoever sends a signal has no time for more held-out data than usual.
                if regular or (overdue and not stopped):
                    entry |= _evaluated(evaluate, title, done, history)
                    board.write_pictures(done, pictures())
                watch.report(entry)
                history.append(entry)
                board.write(done, entry)
            if saved:
                # The history first: what it holds beyond the checkpoint is cut off on resume.
                if is_chief():
                    write_history(checkpoints, history)
                checkpointer.save(done, consecutive_skips, best=best_step(history))
                clock.restart()
            if stopped:
                _finish(checkpointer)
                progress.say(f"stopped at step {done}, whose checkpoint is saved")
                stop.leave()
        _finish(checkpointer)
        if train.export == "best" and best_step(history) not in (0, done):
            progress.say(_restore_best(checkpointer))
    return history


def _finish(checkpointer: Checkpointer) -> None:
    """Wait for the last checkpoint, on all workers: the chief's is the one that counts."""
    checkpointer.finish()
    mean_over_workers(0.0)


def _restore_best(checkpointer: Checkpointer) -> str:
    """Restore the best checkpoint; return a line that says which weights are exported."""
    best, known = checkpointer.best, len(checkpointer.damaged)
    if checkpointer.restore_best():
        return f"weights of step {best} are exported, whose held-out loss is the lowest"
    return "; ".join(
        [
            *checkpointer.damaged[known:],
            f"the last weights are exported: those of step {best}, the best, are missing or damaged",
        ]
    )


def _compile(
    step: Callable[[Batch], Metrics], *, jit_compile: bool
) -> Callable[..., tuple[Metrics, tf.Tensor, tf.Tensor]]:
    """A function that runs several steps.

    It takes an iterator, the number of steps, and the steps skipped in a row so far. It returns sums of
    metrics, the steps skipped in a row at the end, and the step (from 1) at which there were too many, or 0.
    """
    strategy = tf.distribute.get_strategy()
    compiled = tf.function(step, jit_compile=True, autograph=False) if jit_compile else step

    # A function, because it is called twice below and traced once. Without autograph, whose parsing of every
    # layer's source took a third of the tracing time.
    @partial(tf.function, autograph=False)
    def one(iterator: tf.data.Iterator) -> Metrics:
        results = strategy.run(compiled, args=(next(iterator),))
        return {name: strategy.experimental_local_results(value)[0] for name, value in results.items()}

    @tf.function
    def several(
        iterator: tf.data.Iterator, count: tf.Tensor, consecutive_skips: tf.Tensor
    ) -> tuple[Metrics, tf.Tensor, tf.Tensor]:
        sums = one(iterator)
        consecutive_skips = sums["skipped"] * (consecutive_skips + 1.0)
        diverged_at = tf.where(consecutive_skips >= MAX_CONSECUTIVE_SKIPS, 1, 0)
        for index in tf.range(1, count):
            metrics = one(iterator)
            sums = tf.nest.map_structure(tf.add, sums, metrics)
            consecutive_skips = metrics["skipped"] * (consecutive_skips + 1.0)
            diverges = (consecutive_skips >= MAX_CONSECUTIVE_SKIPS) & (diverged_at == 0)
            diverged_at = tf.where(diverges, index + 1, diverged_at)
        return sums, consecutive_skips, diverged_at

    return several


def _evaluated(evaluate: Callable[[], Metrics], title: str, step: int, history: History) -> dict[str, float]:
    """Held-out metrics for the history; a loss that is not finite stops the run.

    `eval_loss_rise` is how far the loss is above the lowest one before, as a share of that. It is left out
    beside losses that may be negative.
    """
    entry = {f"eval_{name}": float(value) for name, value in evaluate().items()}
    if not math.isfinite(entry["eval_loss"]):
        raise TrainingError(f"{title}: held-out loss must be finite, got {entry['eval_loss']} at step {step}")
    lowest = min(
        (before["eval_loss"] for before in history if "eval_loss" in before), default=entry["eval_loss"]
    )
    if lowest > 0.0:
        entry["eval_loss_rise"] = max(0.0, entry["eval_loss"] / lowest - 1.0)
    return entry


class _Clock:
    """Says when the next checkpoint is due by time."""

    def __init__(self, minutes: float | None):
        self._seconds = math.inf if minutes is None else 60.0 * minutes
        self.restart()

    def restart(self) -> None:
        """Begin anew, at a checkpoint."""
        self._since = time.monotonic()

    def is_due(self) -> bool:
        """Whether the interval has passed."""
        return time.monotonic() - self._since >= self._seconds


class _RunningMeans:
    """Metrics since the last logged step."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = 0

    def add(self, sums: Metrics, steps: int) -> dict[str, float]:
        """Add the sums of one call; return the means of that call."""
        values = {name: float(value) for name, value in sums.items()}
        self._steps += steps
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        return _means(values, steps)

    def take(self) -> dict[str, float]:
        """Return the means since the last `take`, and the number of skipped steps."""
        means = _means(self._sums, self._steps)
        self._sums, self._steps = {}, 0
        return means


def _means(sums: Mapping[str, float], steps: int) -> dict[str, float]:
    """Means over the steps that were not skipped; none if all were."""
    skipped = sums["skipped"]
    applied = steps - skipped
    means = {name: value / applied for name, value in sums.items()} if applied else {}
    return {**means, "skipped": skipped}
