"""The training loop that the three trainers share.

One `tf.function` runs several steps; between its calls the host shows progress, logs, evaluates and
writes checkpoints. A checkpoint holds the step, the models and the optimizers; the data follows from
the step (`trainers.training.examples`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from trainers.training.config import Train
from trainers.training.optimizer import Batch, Metrics
from trainers.training.progress import Progress


class TrainingError(RuntimeError):
    """Training that cannot go on; the message is one line for the user."""


def fit(
    title: str,
    train: Train,
    *,
    step: Callable[[Batch], Metrics],
    batches: Callable[[int], tf.data.Dataset],
    state: Mapping[str, Sequence[keras.Variable]],
    evaluate: Callable[[], Metrics],
    checkpoints: str,
    logs: str,
) -> list[dict[str, float]]:
    """Trains for `train.steps` steps, going on from the newest checkpoint.

    Args:
      title: what the progress bar calls the model.
      train: length and rhythm.
      step: one step of training on one batch: changes the variables, returns scalars.
      batches: from a step (counted from 0) to the endless batches from there on.
      state: every variable that `step` changes, by name: weights, statistics, random state, slots.
      evaluate: scalars on held-out data, `loss` among them, taken before every checkpoint and logged
        as `eval_<name>`; weights whose loss is not finite are never saved.
      checkpoints: a stable folder, the same for the same run; holds the history as well.
      logs: TensorBoard's folder.

    Returns:
      The history: one mapping a logged step.

    Raises:
      TrainingError: the loss is not finite.
    """
    done = tf.Variable(0, dtype=tf.int64, trainable=False)
    # As plain lists: in a Keras model, a checkpoint follows neither the layers of a list nor seeds.
    tensors = {name: [variable.value for variable in variables] for name, variables in state.items()}
    checkpoint = tf.train.Checkpoint(step=done, **tensors)
    manager = tf.train.CheckpointManager(checkpoint, checkpoints, max_to_keep=train.keep_checkpoints)
    if manager.latest_checkpoint:
        checkpoint.restore(manager.latest_checkpoint).assert_consumed()
    history = _read_history(checkpoints, until=int(done))
    compiled = tf.function(step, jit_compile=train.jit_compile)

    @tf.function
    def several(iterator: tf.data.Iterator, count: tf.Tensor) -> Metrics:
        sums = compiled(next(iterator))
        for _ in tf.range(count - 1):
            sums = tf.nest.map_structure(tf.add, sums, compiled(next(iterator)))
        return {name: value / tf.cast(count, value.dtype) for name, value in sums.items()}

    iterator = iter(batches(int(done)))
    writer = tf.summary.create_file_writer(logs)
    running: list[dict[str, float]] = []
    with Progress(title, total=train.steps, done=int(done)) as progress, writer.as_default():
        while int(done) < train.steps:
            count = min(train.steps_per_call, train.steps - int(done))
            metrics = {name: float(value) for name, value in several(iterator, tf.constant(count)).items()}
            reached = int(done.assign_add(count))
            _require_finite(title, reached, metrics["loss"])
            running.append(metrics)
            progress.update(reached, metrics)

            last = reached == train.steps
            at_checkpoint = last or reached % train.checkpoint_every == 0
            if at_checkpoint or reached % train.log_every == 0:
                entry = {name: sum(m[name] for m in running) / len(running) for name in metrics}
                running = []
                entry |= {"step": reached, "steps_per_second": progress.rate}
                if at_checkpoint:
                    entry |= {f"eval_{name}": float(value) for name, value in evaluate().items()}
                    _require_finite(title, reached, entry["eval_loss"])
                history.append(entry)
                for name, value in entry.items():
                    tf.summary.scalar(name, value, step=reached)
            if at_checkpoint:
                # The history first: whatever it holds beyond the checkpoint is cut off on resume.
                write_history(checkpoints, history)
                manager.save(checkpoint_number=reached)
    return history


def _require_finite(title: str, step: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise TrainingError(f"{title}: the loss is {loss} at step {step}")


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
