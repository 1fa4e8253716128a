"""Optimizer and learning-rate schedule, as the paper describes them (section 5.1), and one step."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from trainers.training.config import Optimizer

Batch = dict[str, tf.Tensor]
Metrics = dict[str, tf.Tensor]


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


def adamw(options: Optimizer, steps: int, variables: list[keras.Variable]) -> keras.optimizers.Optimizer:
    """Adam with decoupled weight decay on every weight matrix, its slots built for `variables`."""
    optimizer = keras.optimizers.AdamW(
        schedule(options, steps),
        beta_1=options.beta_1,
        beta_2=options.beta_2,
        weight_decay=options.weight_decay,
        global_clipnorm=options.clip_norm,
    )
    # Decay pulls towards 0, which is no neutral place for a scale, an offset or a point on a sphere.
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "positions", "embedding"])
    optimizer.build(variables)
    return optimizer


def descent_step(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, losses: Callable[[Batch], Metrics]
) -> Callable[[Batch], Metrics]:
    """A training step: `optimizer` moves `model` down the gradient of `losses(batch)["loss"]`."""

    def step(batch: Batch) -> Metrics:
        with tf.GradientTape() as tape:
            metrics = losses(batch)
        # Dense: of a gathered embedding's rows, Keras would square each occurrence and not their sum.
        gradients = [
            tf.convert_to_tensor(g) for g in tape.gradient(metrics["loss"], model.trainable_variables)
        ]
        optimizer.apply(gradients, model.trainable_variables)
        return metrics

    return step
