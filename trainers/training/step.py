"""The training step: compute gradients, average them over micro-batches and replicas, apply them if finite.

A step whose loss or gradient is not finite is skipped: weights, optimizer slots, EMA, and the statistics that
the forward pass writes keep their values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from trainers.training.train_state import Gradients, TrainState

Batch = dict[str, tf.Tensor]
Metrics = dict[str, tf.Tensor]


def gradients_of(tape: tf.GradientTape, loss: tf.Tensor, variables: Sequence[keras.Variable]) -> Gradients:
    """Dense gradients of a loss, zeros where it does not depend on a variable."""
    gradients = tape.gradient(
        loss, [v.value for v in variables], unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    # Densify embedding gradients: for sparse ones Keras squares duplicate rows before summing them.
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def loss_gradients(state: TrainState, losses: Callable[[Batch], Metrics]) -> Callable[[Batch], Any]:
    """The gradients of `losses(batch)["loss"]` for one network, in the form that `training_step` takes."""

    def gradients(batch: Batch) -> tuple[list[Gradients], Metrics]:
        with tf.GradientTape() as tape:
            metrics = losses(batch)
        return [gradients_of(tape, metrics["loss"], state.trainable_variables)], metrics

    return gradients


def training_step(
    states: Sequence[TrainState],
    gradients: Callable[[Batch], tuple[list[Gradients], Metrics]],
    *,
    gradient_accumulation_steps: int = 1,
    post_step: Callable[[Metrics], None] = lambda metrics: None,
    summarize: Callable[[Metrics], Metrics] = lambda metrics: metrics,
) -> Callable[[Batch], Metrics]:
    """Build the step on one replica's share of a batch.

    The batch gets another entry `row` int32 [b]: each example's index in the whole step's batch, for random
    draws that must not depend on how the batch is split.

    Args:
      states: the networks, each with its own optimizer.
      gradients: from a batch to the gradients of each network and to metrics (`loss` among them): means
        over examples, so that the mean over micro-batches is the mean over the batch.
      gradient_accumulation_steps: micro-batches, computed one after the other.
      post_step: updates what learns without gradients, from the mean metrics of the whole step; it runs after
        the gradients were applied, and not after a skipped step.
      summarize: mean metrics of any shape to scalars.

    Returns:
      From a batch to scalars, identical on every replica: the metrics, gradient norm (before clipping) and
      learning rate of each network; for a skipped step `skipped` is 1 and all others are 0.
    """

    def step(batch: Batch) -> Metrics:
        before = [[tf.identity(v.value) for v in state.statistics] for state in states]
        context = tf.distribute.get_replica_context()
        size = next(iter(batch.values())).shape[0]
        batch = {**batch, "row": tf.range(size) + size * context.replica_id_in_sync_group}
        means, metrics = _mean_over_micro_batches(gradients, batch, gradient_accumulation_steps)
        if context.num_replicas_in_sync > 1:
            means, metrics = context.all_reduce(tf.distribute.ReduceOp.MEAN, (means, metrics))
        norms = [tf.linalg.global_norm(mean) for mean in means]
        all_finite = tf.reduce_all(tf.math.is_finite(tf.stack([*norms, metrics["loss"]])))
        logged: Metrics = {}
        for state, norm in zip(states, norms, strict=True):
            logged |= state.metrics(norm)
        done = states[0].optimizer.iterations
        ready = [all_finite & (done >= state.start_step) for state in states]
        updates = [
            state.compute_updates(mean, norm, is_ready)
            for state, mean, norm, is_ready in zip(states, means, norms, ready, strict=True)
        ]
        replica = context.replica_id_in_sync_group
        context.merge_call(
            _apply_if_finite,
            args=(states, updates, norms, ready, replica, before, all_finite, metrics, post_step),
        )
        scalars = {**summarize(metrics), **logged}
        applied = {name: tf.where(all_finite, value, 0.0) for name, value in scalars.items()}
        return {**applied, "skipped": 1.0 - tf.cast(all_finite, tf.float32)}

    return step


def _mean_over_micro_batches(
    gradients: Callable[[Batch], tuple[list[Gradients], Metrics]], batch: Batch, count: int
) -> tuple[list[Gradients], Metrics]:
    if count == 1:
        return gradients(batch)
    # A function: the step holds its graph once, however many micro-batches there are.
    of_micro_batch = tf.function(gradients, autograph=False)
    stacked = {name: tf.reshape(x, [count, -1, *x.shape[1:]]) for name, x in batch.items()}

    def take(index: tf.Tensor) -> Batch:
        return {name: x[index] for name, x in stacked.items()}

    def add(index: tf.Tensor, sums: Any) -> tuple[tf.Tensor, Any]:
        return index + 1, tf.nest.map_structure(tf.add, sums, of_micro_batch(take(index)))

    _, sums = tf.while_loop(
        lambda index, sums: index < count,
        add,
        (1, of_micro_batch(take(tf.constant(0)))),
        parallel_iterations=1,
    )
    return tf.nest.map_structure(lambda total: total / count, sums)


def _apply_if_finite(
    strategy: tf.distribute.Strategy,
    states: Sequence[TrainState],
    updates: list[Gradients],
    norms: list[tf.Tensor],
    ready: list[tf.Tensor],
    replica: tf.Tensor | int,
    before: list[list[tf.Tensor]],
    all_finite: tf.Tensor,
    metrics: Metrics,
    post_step: Callable[[Metrics], None],
) -> None:
    """Apply the updates, or restore the statistics of batch norm; for all replicas at once."""

    def of_any_replica(value: Any) -> Any:
        return tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], value)

    def apply() -> tf.Tensor:
        of_states = zip(states, updates, of_any_replica(norms), of_any_replica(ready), strict=True)
        for state, own_updates, norm, is_ready in of_states:
            apply_own = partial(_apply, state, own_updates, norm, replica)
            if state.start_step:
                tf.cond(is_ready, apply_own, lambda: False)
            else:
                apply_own()
        post_step(of_any_replica(metrics))
        return True

    def skip() -> tf.Tensor:
        for state, values in zip(states, before, strict=True):
            for variable, value in zip(state.statistics, values, strict=True):
                strategy.extended.update(
                    variable.value, lambda v, old: v.assign(old), args=(value,), group=False
                )
        return False

    tf.cond(of_any_replica(all_finite), apply, skip)


def _apply(state: TrainState, updates: Gradients, norm: tf.Tensor, replica: tf.Tensor | int) -> bool:
    state.apply_updates(updates, norm, replica)
    return True  # tf.cond wants a value
