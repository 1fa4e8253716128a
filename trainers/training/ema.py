"""Exponential moving average (EMA) of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

from trainers.training.sharding import ShardedVariable, own_share, sharded_variable


class ExponentialMovingAverage:
    """EMA of a network's weights, batch-norm statistics included.

    The average a of weights w becomes d a + (1 - d) w, with d the smaller of `decay` and (1 + t) / (10 + t)
    after t steps, so that a short run forgets its random initialization. `sharded`, each replica keeps its
    share of the averages of trained weights (`trainers.training.sharding`).
    """

    def __init__(self, variables: list[keras.Variable], decay: float, *, sharded: bool = False):
        self._weights = [v for v in variables if v.dtype.startswith("float")]
        self._decay = decay
        # Statistics of batch norm are each replica's own.
        self.variables = [
            (sharded_variable if sharded and v.trainable else _variable)(
                tf.convert_to_tensor(v.value), f"ema_{v.name}"
            )
            for v in self._weights
        ]

    def restart(self) -> None:
        """Begin with the weights as they are."""
        for average, weight in zip(self.variables, self._weights, strict=True):
            average.assign(weight.value)

    def update(self, step: tf.Tensor, replica: tf.Tensor | int) -> None:
        """Include the weights after step number `step`; call it in cross-replica context.

        `replica` is each replica's number, for sharded averages.
        """
        t = tf.cast(step, tf.float32)
        rest = 1.0 - tf.minimum(self._decay, (1.0 + t) / (10.0 + t))
        strategy = tf.distribute.get_strategy()

        def assign(average: tf.Variable, weight: tf.Tensor, replica: tf.Tensor, rest: tf.Tensor) -> None:
            average.assign_add(tf.cast(rest, average.dtype) * (weight - average))

        def assign_share(
            average: tf.Variable, weight: tf.Tensor, replica: tf.Tensor, rest: tf.Tensor
        ) -> None:
            assign(average, own_share(weight, replica), replica, rest)

        for average, weight in zip(self.variables, self._weights, strict=True):
            sharded = isinstance(average, ShardedVariable)
            kept, update = (average.shares, assign_share) if sharded else (average, assign)
            strategy.extended.update(kept.value, update, args=(weight.value, replica, rest), group=False)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Give the network the averages as its weights while the context lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for average, weight in zip(self.variables, self._weights, strict=True):
            held = tf.identity(weight.value)
            weight.assign(average.value)
            average.assign(held)


def _variable(value: tf.Tensor, name: str) -> keras.Variable:
    # From a value: a Keras variable made from a variable is that same variable.
    return keras.Variable(value, dtype=value.dtype.name, trainable=False, name=name)
