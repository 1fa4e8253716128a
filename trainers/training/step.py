"""One step of training: gradients, their mean over parts and replicas, and a move that is sound.

A step whose loss or gradient is not finite moves nothing: weights, slots, averages and the statistics
that the forward pass writes stay what they were, and the step counts as skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from trainers.training.average import Average
from trainers.training.config import Optimizer, Train
from trainers.training.optimizer import DecoupledOptimizer

Batch = dict[str, tf.Tensor]
Metrics = dict[str, tf.Tensor]
Gradients = list[tf.Tensor]


class Learner:
    """A network in training: its weights, the optimizer that moves them, and perhaps their average.

    Before the first learner has made `start_step` moves, this one makes none; its learning rate has the
    steps that are left for its own length.
    """

    def __init__(
        self,
        network: keras.Model,
        train: Train,
        optimizer: Optimizer | None = None,
        *,
        averaged: bool = True,
        start_step: int = 0,
    ):
        self.start_step = start_step
        self.optimizer = DecoupledOptimizer(
            optimizer or train.optimizer, train.steps - start_step, network.trainable_variables
        )
        decay = train.ema_decay if averaged else None
        self.average = Average(network.variables, decay) if decay else None
        # What a forward pass writes: the moving statistics of batch norm.
        self.statistics = [v for v in network.non_trainable_variables if v.dtype.startswith("float")]
        self._network = network

    @property
    def variables(self) -> list[keras.Variable]:
        """The weights that gradients are taken for."""
        return self.optimizer.variables

    @property
    def state(self) -> list[keras.Variable]:
        """All that has to be kept for the training to go on."""
        average = self.average.variables if self.average else []
        return [*self._network.variables, *self.optimizer.state, *average]


@contextmanager
def averages_in_place(learners: Sequence[Learner]) -> Iterator[None]:
    """Within it, every learner that has an average of its weights uses that."""
    with ExitStack() as stack:
        for learner in learners:
            if learner.average:
                stack.enter_context(learner.average.in_place())
        yield


def gradients_of(tape: tf.GradientTape, loss: tf.Tensor, variables: Sequence[keras.Variable]) -> Gradients:
    """The gradients of a loss, dense, zeros where it does not depend on a variable."""
    gradients = tape.gradient(
        loss, [v.value for v in variables], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    # Dense: of a gathered embedding's rows, Keras would square each occurrence and not their sum.
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def descent(learner: Learner, losses: Callable[[Batch], Metrics]) -> Callable[[Batch], Any]:
    """The gradients of `losses(batch)["loss"]` for one learner, in the form `training_step` takes."""

    def gradients(batch: Batch) -> tuple[list[Gradients], Metrics]:
        with tf.GradientTape() as tape:
            metrics = losses(batch)
        return [gradients_of(tape, metrics["loss"], learner.variables)], metrics

    return gradients


def training_step(
    learners: Sequence[Learner],
    gradients: Callable[[Batch], tuple[list[Gradients], Metrics]],
    *,
    accumulate: int = 1,
    follow: Callable[[Metrics], None] = lambda metrics: None,
    summarize: Callable[[Metrics], Metrics] = lambda metrics: metrics,
) -> Callable[[Batch], Metrics]:
    """A step on one replica's share of a batch.

    A batch gets `row` int32 [b] besides: the place of each example in the whole step's batch, for what has
    to be drawn alike however the batch is shared out.

    Args:
      learners: the networks, each moved by its own optimizer.
      gradients: from a batch to the gradients of each learner and to metrics (`loss` among them): means
        over the examples, so that the mean of two parts is that of the whole.
      accumulate: parts that the share is taken in, one after the other.
      follow: changes whatever else learns, from the mean metrics of the whole step, after a sound move.
      summarize: mean metrics of any shape to scalars.

    Returns:
      From a batch to scalars, the same on every replica; `skipped` is 1 where nothing was moved, and
      all others are then 0.
    """

    def step(batch: Batch) -> Metrics:
        before = [[tf.identity(v.value) for v in learner.statistics] for learner in learners]
        context = tf.distribute.get_replica_context()
        size = next(iter(batch.values())).shape[0]
        batch = {**batch, "row": tf.range(size) + size * context.replica_id_in_sync_group}
        moves, metrics = _mean_over_parts(gradients, batch, accumulate)
        if context.num_replicas_in_sync > 1:
            moves, metrics = context.all_reduce(tf.distribute.ReduceOp.MEAN, (moves, metrics))
        norms = [tf.linalg.global_norm(move) for move in moves]
        sound = tf.reduce_all(tf.math.is_finite(tf.stack([*norms, metrics["loss"]])))
        context.merge_call(_apply, args=(learners, moves, norms, before, sound, metrics, follow))
        scalars = {name: tf.where(sound, value, 0.0) for name, value in summarize(metrics).items()}
        return {**scalars, "skipped": 1.0 - tf.cast(sound, tf.float32)}

    return step


def _mean_over_parts(
    gradients: Callable[[Batch], tuple[list[Gradients], Metrics]], batch: Batch, parts: int
) -> tuple[list[Gradients], Metrics]:
    if parts == 1:
        return gradients(batch)
    # As a function: its graph stands once in the step, however many parts there are.
    of_part = tf.function(gradients, autograph=False)
    stacked = {name: tf.reshape(x, [parts, -1, *x.shape[1:]]) for name, x in batch.items()}

    def take(index: tf.Tensor) -> Batch:
        return {name: x[index] for name, x in stacked.items()}

    def add(index: tf.Tensor, sums: Any) -> tuple[tf.Tensor, Any]:
        return index + 1, tf.nest.map_structure(tf.add, sums, of_part(take(index)))

    _, sums = tf.while_loop(
        lambda index, sums: index < parts, add, (1, of_part(take(tf.constant(0)))), parallel_iterations=1
    )
    return tf.nest.map_structure(lambda total: total / parts, sums)


def _move(learner: Learner, gradients: Gradients, norm: tf.Tensor) -> bool:
    learner.optimizer.move(gradients, norm)
    if learner.average:
        learner.average.move(learner.optimizer.moves)
    return True


def _apply(
    strategy: tf.distribute.Strategy,
    learners: Sequence[Learner],
    moves: list[Gradients],
    norms: list[tf.Tensor],
    before: list[list[tf.Tensor]],
    sound: tf.Tensor,
    metrics: Metrics,
    follow: Callable[[Metrics], None],
) -> None:
    """Moves the learners where the step is sound, for all replicas at once."""

    def of_any_replica(value: Any) -> Any:
        return tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], value)

    def move() -> tf.Tensor:
        step = learners[0].optimizer.moves
        for learner, gradients, norm in zip(learners, moves, of_any_replica(norms), strict=True):
            if learner.start_step:
                started = step >= learner.start_step
                tf.cond(started, partial(_move, learner, gradients, norm), lambda: False)
            else:
                _move(learner, gradients, norm)
        follow(of_any_replica(metrics))
        return True

    def stay() -> tf.Tensor:
        for learner, values in zip(learners, before, strict=True):
            for variable, value in zip(learner.statistics, values, strict=True):
                strategy.extended.update(
                    variable.value, lambda v, old: v.assign(old), args=(value,), group=False
                )
        return False

    tf.cond(of_any_replica(sound), move, stay)
