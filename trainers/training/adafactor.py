"""Adafactor whose first moment is kept in 8 bits (Shazeer and Stern 2018), as section 5.2 trains VIM.

Adam keeps two float32 numbers for every weight. This keeps about one byte.

**Second moment.** A tensor is taken as a matrix of m rows and n columns, n its last dimension. Of the
squared gradients (plus 1e-30), only the mean R [m] of every row and the mean C [n] of every column are
kept, each as a running mean, and stand for the whole as

    V_ij = R_i C_j / mean(R),

the matrix of rank 1 that has these means. Where the squared gradients are of rank 1 it is they.

**Its decay** is Adam's bias correction, put into the running mean. Adam divides
v_t = b v_(t-1) + (1 - b) g_t^2 by 1 - b^t. The quotient is itself a running mean,
b_t v_(t-1) / (1 - b^(t-1)) + (1 - b_t) g_t^2, with

    b_t = b (1 - b^(t-1)) / (1 - b^t):

0 at the first step, where nothing has been seen yet, and b in the end.

**Update.** u = g / sqrt(V), divided by its root mean square over the tensor where that is above 1. The
learning rate is inside the first moment, and the weights move by it:

    m <- b_1 m + (1 - b_1) rate u,    w <- w - m.

m starts at 0 and is not corrected for that, so the first steps are short: the first goes 1 - b_1 of the rate.
There is no scaling by the size of the weights.

**First moment in 8 bits.** Every column has a scale, the largest |m| in it over 127, and m is kept as the
nearest whole multiple of it, half a scale off at most (halves go to the even one). The weights move by m as
it was before rounding. Rounding is deterministic, so a run repeats to the bit, but it does not average out:
what is below half a scale becomes 0, and a moment stays where it is as long as a step would change it by
less than that. With b_1 = 0.9 a moment rests up to 5 scales, 4 % of the largest of its column, from where it
should be: one that its gradient has left fades to 4 scales and stays there until the gradient or the scale
changes, and one at 0 whose update is below 5 scales stays 0, so that its weight moves by a tenth of its rate.

Vectors and scalars keep both moments whole, in float32. What is kept for a matrix of m x n is thus m n bytes
and 4 (m + 2 n), for a vector of n, 8 n.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

# Keeps a row or a column whose gradients are all 0 from being divided by 0.
EPSILON = 1e-30
# The root mean square to which an update is cut down.
CLIP = 1.0
# The largest of 8 bits; -128 is not used, so that the range is symmetric.
LEVELS = 127.0


class Adafactor(keras.optimizers.Optimizer):
    """Adafactor as a Keras optimizer.

    Args:
      learning_rate: a number, or a schedule.
      beta_1: decay of the first moment, in [0, 1).
      beta_2: what the decay of the second moment grows to, in [0, 1).
      **options: those of every Keras optimizer.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        beta_1: float = 0.9,
        beta_2: float = 0.96,
        name: str = "adafactor",
        **options: Any,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **options)
        self.beta_1 = beta_1
        self.beta_2 = beta_2

    def build(self, variables: list[keras.Variable]) -> None:
        """Make the slots of each variable, all 0."""
        if self.built:
            return
        super().build(variables)
        with _without_broadcast(tf.distribute.get_strategy()):
            self._slots = [self._slots_of(variable) for variable in variables]

    def _slots_of(self, variable: keras.Variable) -> dict[str, keras.Variable]:
        def slot(name: str, shape: tuple[int, ...], dtype: str = "float32") -> keras.Variable:
            return self.add_variable(shape, dtype=dtype, name=f"{variable.name}_{name}")

        shape = tuple(variable.shape)
        if len(shape) < 2:
            return {"moment": slot("moment", shape), "square": slot("square", shape)}
        rows, columns = math.prod(shape[:-1]), shape[-1]
        return {
            "moment": slot("moment", (rows, columns), "int8"),
            "scale": slot("scale", (columns,)),
            "row_square": slot("row_square", (rows,)),
            "column_square": slot("column_square", (columns,)),
        }

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Update one variable and its slots."""
        slots = self._slots[self._get_variable_index(variable)]
        # Densify embedding gradients: duplicate rows are summed before they are squared.
        gradient = tf.cast(tf.convert_to_tensor(gradient), tf.float32)
        rate = tf.cast(learning_rate, tf.float32)
        decay = second_moment_decay(keras.ops.cast(self.iterations + 1, "float32"), self.beta_2)
        step = (self._matrix_step if "scale" in slots else self._vector_step)(slots, gradient, rate, decay)
        self.assign_sub(variable, tf.reshape(step, variable.shape))

    def _matrix_step(
        self, slots: dict[str, keras.Variable], gradient: tf.Tensor, rate: tf.Tensor, decay: tf.Tensor
    ) -> tf.Tensor:
        """Update the slots of a matrix; return its step [m, n]."""
        gradient = tf.reshape(gradient, slots["moment"].shape)
        squares = tf.square(gradient) + EPSILON
        row = _mean(slots["row_square"], tf.reduce_mean(squares, axis=1), decay)
        column = _mean(slots["column_square"], tf.reduce_mean(squares, axis=0), decay)
        # One factor after the other: the product of two small means is below what float32 holds.
        update = gradient * tf.math.rsqrt(row)[:, tf.newaxis]
        update *= tf.sqrt(tf.reduce_mean(row)) * tf.math.rsqrt(column)
        before = dequantize(slots["moment"].value, slots["scale"].value)
        moment = self._first_moment(before, update, rate)
        levels, scale = quantize(moment)
        self.assign(slots["moment"], levels)
        self.assign(slots["scale"], scale)
        self.assign(slots["row_square"], row)
        self.assign(slots["column_square"], column)
        return moment

    def _vector_step(
        self, slots: dict[str, keras.Variable], gradient: tf.Tensor, rate: tf.Tensor, decay: tf.Tensor
    ) -> tf.Tensor:
        """Update the slots of a vector or a scalar; return its step, of its shape."""
        square = _mean(slots["square"], tf.square(gradient) + EPSILON, decay)
        before = tf.convert_to_tensor(slots["moment"].value)
        moment = self._first_moment(before, gradient * tf.math.rsqrt(square), rate)
        self.assign(slots["moment"], moment)
        self.assign(slots["square"], square)
        return moment

    def _first_moment(self, before: tf.Tensor, update: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        size = tf.sqrt(tf.reduce_mean(tf.square(update)))
        return self.beta_1 * before + (1.0 - self.beta_1) * rate * update / tf.maximum(1.0, size / CLIP)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the same optimizer, without its slots."""
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2}


@contextmanager
def _without_broadcast(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Keep workers from broadcasting the initial values of variables while the context lasts.

    The broadcast is a collective operation, which TensorFlow does not have for int8; zeros need none. There
    is no option for it: the private number of workers is read for nothing else when a variable is made.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        yield
        return
    extended = strategy.extended
    workers, extended._num_workers = extended._num_workers, 1
    try:
        yield
    finally:
        extended._num_workers = workers


def second_moment_decay(step: tf.Tensor, beta_2: float) -> tf.Tensor:
    """b_t = b (1 - b^(t-1)) / (1 - b^t) at step t, counted from 1: 0 at first, b in the end."""
    return beta_2 * (1.0 - tf.pow(beta_2, step - 1.0)) / (1.0 - tf.pow(beta_2, step))


def quantize(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Float32 [m, n] to int8 [m, n] in [-127, 127] and a scale float32 [n], a column's maximum / 127."""
    scale = tf.reduce_max(tf.abs(x), axis=0) / LEVELS
    return tf.cast(tf.round(x / tf.where(scale > 0.0, scale, 1.0)), tf.int8), scale


def dequantize(levels: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """The values that `quantize` rounded to, float32 [m, n]: within half a scale of its input."""
    return tf.cast(levels, tf.float32) * scale


def _mean(slot: keras.Variable, new: tf.Tensor, decay: tf.Tensor) -> tf.Tensor:
    return decay * slot.value + (1.0 - decay) * new
