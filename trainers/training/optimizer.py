"""Optimizer and learning-rate schedule, as the paper describes them (section 5.1)."""

from __future__ import annotations

import keras
import tensorflow as tf

from trainers.training.config import Optimizer

# Decay pulls towards 0, which is no neutral place for a scale, an offset or a point on a sphere.
UNDECAYED = ("bias", "gamma", "beta", "positions", "embedding")


def schedule(options: Optimizer, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up from 0 to the peak, then a cosine down to the floor at `steps`."""
    warm, peak = options.warmup_steps, options.learning_rate
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warm else peak,
        warmup_target=peak if warm else None,
        warmup_steps=warm,
        decay_steps=steps - warm,
        alpha=options.final_learning_rate / peak,
    )


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
        self._rule = keras.optimizers.Adam(
            schedule(options, steps), beta_1=options.beta_1, beta_2=options.beta_2
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
