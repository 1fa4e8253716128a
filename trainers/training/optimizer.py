"""Optimizer and learning-rate schedule, as the paper describes them (sections 5.1 and 5.2)."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from trainers.training.adafactor import Adafactor
from trainers.training.config import Optimizer

# Decay pulls towards 0, which is no neutral place for a scale, an offset or a point on a sphere.
UNDECAYED = ("bias", "gamma", "beta", "positions", "embedding")


RULES = {"adam": keras.optimizers.Adam, "adafactor": Adafactor}


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate at a step t: warm-up, hold, decay.

    Up to w = `warmup_steps` it is t / w of the peak p, up to d = `decay_from` the peak. From there on, with
    s = (t - d) / (steps - d), which is 1 after the last step, and f = `final_learning_rate`, it is
    f + (p - f) (1 + cos(pi s)) / 2 (section 5.1) or p (f / p)^s (section 5.2).
    """

    def __init__(self, options: Optimizer, steps: int):
        self._options = options
        self._steps = steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Steps made so far, scalar, to the rate of the next, float32 scalar."""
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
        """What makes the same schedule."""
        return {"options": self._options.model_dump(), "steps": self._steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        """The schedule of a `get_config`."""
        return cls(Optimizer.model_validate(config["options"]), config["steps"])


class DecoupledOptimizer:
    """A Keras optimizer, with clipping and decoupled weight decay, that moves variables when told to.

    Keras' own `apply` decides for itself when to sum over replicas and always moves. Here gradients come
    in summed and the caller decides, which is what skipped steps need; the rule itself stays
    Keras' `update_step`.
    """

    def __init__(self, options: Optimizer, steps: int, variables: list[keras.Variable]):
        self.variables = variables
        self._clip_norm = options.clip_norm
        self._weight_decay = options.weight_decay
        self._rule = RULES[options.rule](
            Schedule(options, steps), beta_1=options.beta_1, beta_2=options.beta_2
        )
        self._rule.build(variables)

    @property
    def state(self) -> list[keras.Variable]:
        """Slots and the count of moves, for a checkpoint."""
        return self._rule.variables

    @property
    def moves(self) -> tf.Tensor:
        """How often the variables were moved, int64 scalar."""
        return tf.cast(tf.convert_to_tensor(self._rule.iterations), tf.int64)

    @property
    def learning_rate(self) -> tf.Tensor:
        """The rate of the next move, scalar."""
        return tf.convert_to_tensor(self._rule.learning_rate)

    def move(self, gradients: list[tf.Tensor], norm: tf.Tensor) -> None:
        """Moves every variable down its gradient; called in cross-replica context.

        Decoupled weight decay (Loshchilov and Hutter 2017) shrinks a weight by `rate * decay` of itself,
        apart from the gradient's statistics. `norm` is the gradients' global norm, to which they are
        clipped.
        """
        rate = self.learning_rate
        scale = tf.minimum(1.0, self._clip_norm / norm) if self._clip_norm else None
        strategy = tf.distribute.get_strategy()
        for variable, gradient in zip(self.variables, gradients, strict=True):
            decay = 0.0 if variable.name.endswith(UNDECAYED) else self._weight_decay

            def update(weight, gradient, rate, scale, decay=decay):
                if decay:
                    weight.assign_sub(rate * decay * weight)
                self._rule.update_step(gradient if scale is None else gradient * scale, weight, rate)

            strategy.extended.update(variable.value, update, args=(gradient, rate, scale), group=False)
        self._rule.iterations.assign_add(1)
