"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf


class Average:
    """Running averages beside a network's weights, statistics of batch norm included.

    The average a of weights w moves as a <- d a + (1 - d) w, with d the smaller of `decay` and
    (1 + t) / (10 + t) after t moves, so that a short run does not drag its random start along.
    """

    def __init__(self, variables: list[keras.Variable], decay: float):
        self._weights = [v for v in variables if v.dtype.startswith("float")]
        self._decay = decay
        # From values: a Keras variable made from a variable is that same variable.
        self.variables = [
            keras.Variable(
                tf.convert_to_tensor(v.value), dtype=v.dtype, trainable=False, name=f"average_{v.name}"
            )
            for v in self._weights
        ]

    def move(self, moves: tf.Tensor) -> None:
        """Takes the weights in, after move number `moves`; called in cross-replica context."""
        t = tf.cast(moves, tf.float32)
        rest = 1.0 - tf.minimum(self._decay, (1.0 + t) / (10.0 + t))
        strategy = tf.distribute.get_strategy()

        def update(average, weight, rest):
            average.assign_add(tf.cast(rest, average.dtype) * (weight - average))

        for average, weight in zip(self.variables, self._weights, strict=True):
            strategy.extended.update(average.value, update, args=(weight.value, rest), group=False)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the network has the averages for its weights."""
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
