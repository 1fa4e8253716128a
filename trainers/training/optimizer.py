"""Optimizers and the learning-rate schedule, as the paper describes them (sections 5.1 and 5.2)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from trainers.training.adafactor import Adafactor
from trainers.training.config import Optimizer

# Weight decay pulls towards 0, which is no neutral value for a scale, an offset or a point on the sphere.
UNDECAYED = ("bias", "gamma", "beta", "positions", "embedding")


class LearningRateSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate at step t: warm-up, hold, decay.

    With peak p it is p t / w up to w = `warmup_steps`, and p up to d = `decay_from`. After that, with
    s = (t - d) / (steps - d), which is 1 after the last step, and f = `final_learning_rate`, it is
    f + (p - f) (1 + cos(pi s)) / 2 (section 5.1) or p (f / p)^s (section 5.2).
    """

    def __init__(self, options: Optimizer, steps: int):
        self._options = options
        self._steps = steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The rate of the next step after `step` steps, float32 scalar."""
        options = self._options
        peak, final, warm = options.learning_rate, options.final_learning_rate, options.warmup_steps
        start = warm if options.decay_from is None else options.decay_from
        step = tf.cast(step, tf.float32)
        share = tf.clip_by_value((step - start) / (self._steps - start), 0.0, 1.0)
        if options.decay == "exponential":
            rate = peak * tf.pow(final / peak, share)
        else:
            rate = final + (peak - final) * 0.5 * (1.0 + tf.cos(math.pi * share))
        return rate * tf.minimum(1.0, step / warm) if warm else rate

    def get_config(self) -> dict[str, Any]:
        """Arguments that make the same schedule."""
        return {"options": self._options.model_dump(), "steps": self._steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LearningRateSchedule:
        """The schedule of a `get_config`."""
        return cls(Optimizer.model_validate(config["options"]), config["steps"])


def adam_arguments(options: Optimizer, steps: int) -> dict[str, Any]:
    """Arguments of Keras' Adam, over a training of so many steps."""
    return {
        "learning_rate": LearningRateSchedule(options, steps),
        "beta_1": options.beta_1,
        "beta_2": options.beta_2,
        "epsilon": options.epsilon,
    }


def _adam(options: Optimizer, steps: int) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(**adam_arguments(options, steps))


def _adafactor(options: Optimizer, steps: int) -> keras.optimizers.Optimizer:
    schedule = LearningRateSchedule(options, steps)
    return Adafactor(schedule, beta_1=options.beta_1, beta_2=options.beta_2)


OPTIMIZERS = {"adam": _adam, "adafactor": _adafactor}


class DecoupledOptimizer:
    """A Keras optimizer with clipping and decoupled weight decay that applies gradients when told to.

    Keras' own `apply` decides by itself when to sum over replicas, and always applies. Here gradients arrive
    summed and the caller decides, which skipped steps need; the update rule is Keras' `update_step`.

    Args:
      options: clipping, weight decay, and which optimizer.
      steps: the length of the training, for the schedule.
      trainable_variables: what it updates.
      optimizer: another Keras optimizer than `options.name`, not yet built.
    """

    def __init__(
        self,
        options: Optimizer,
        steps: int,
        trainable_variables: list[keras.Variable],
        optimizer: keras.optimizers.Optimizer | None = None,
    ):
        self.trainable_variables = trainable_variables
        self._clip_norm = options.clip_norm
        self._weight_decay = options.weight_decay
        self._keras = optimizer or OPTIMIZERS[options.name](options, steps)
        self._keras.build(trainable_variables)

    @property
    def variables(self) -> list[keras.Variable]:
        """Slots and the number of steps, for a checkpoint."""
        return self._keras.variables

    @property
    def iterations(self) -> tf.Tensor:
        """How often gradients were applied, int64 scalar."""
        return tf.cast(tf.convert_to_tensor(self._keras.iterations), tf.int64)

    @property
    def learning_rate(self) -> tf.Tensor:
        """The rate of the next step, scalar."""
        return tf.convert_to_tensor(self._keras.learning_rate)

    def compute_updates(
        self, gradients: list[tf.Tensor], norm: tf.Tensor, ready: tf.Tensor
    ) -> list[tf.Tensor]:
        """What `apply_updates` takes: the gradients."""
        return gradients

    def scale(self, norm: tf.Tensor) -> tf.Tensor | None:
        """The factor that cuts gradients of a global norm down to `clip_norm`; None if there is no such."""
        return tf.minimum(1.0, self._clip_norm / norm) if self._clip_norm else None

    def update(
        self, variable: keras.Variable, gradient: tf.Tensor, rate: tf.Tensor, scale: tf.Tensor | None
    ) -> None:
        """Update one variable and its slots, on one replica.

        Decoupled weight decay (Loshchilov and Hutter 2017) shrinks a weight by `rate * decay` of itself,
        apart from the gradient's statistics.
        """
        self._update(variable.value, gradient, rate, scale, decay=self._decay_of(variable))

    def _decay_of(self, variable: keras.Variable) -> float:
        return 0.0 if variable.name.endswith(UNDECAYED) else self._weight_decay

    def _update(
        self, weight: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor, scale: Any, *, decay: float
    ) -> None:
        if decay:
            weight.assign_sub(rate * decay * weight)
        self._keras.update_step(gradient if scale is None else gradient * scale, weight, rate)

    def apply_updates(self, gradients: list[tf.Tensor], norm: tf.Tensor) -> None:
        """Update every variable; call it in cross-replica context.

        Gradients are clipped to a global norm of `clip_norm`; `norm` is the one that they have.
        """
        rate, scale = self.learning_rate, self.scale(norm)
        strategy = tf.distribute.get_strategy()
        for variable, gradient in zip(self.trainable_variables, gradients, strict=True):
            update = partial(self._update, decay=self._decay_of(variable))
            strategy.extended.update(variable.value, update, args=(gradient, rate, scale), group=False)
        self.count()

    def count(self) -> None:
        """Count a step; call it in cross-replica context."""
        self._keras.iterations.assign_add(1)
