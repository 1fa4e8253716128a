"""Linear classifiers on the frozen features of every block, all blocks at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

# Warm-up steps as a fraction of all steps: 10 of 90 epochs at full scale.
WARMUP = 1 / 9

# Examples are stored in hashed order already; the buffer reorders them in every epoch.
SHUFFLE_BYTES = 2**28


class Accuracy(NamedTuple):
    """Top-1 and top-5 accuracy by block."""

    top1: np.ndarray  # float64 [L]
    top5: np.ndarray  # float64 [L]


def train(
    features: tf.data.Dataset,
    count: int,
    classes: int,
    *,
    batch_size: int,
    epochs: int,
    learning_rate: float,
    seed: int,
) -> keras.Model:
    """Train the probes.

    Features are standardized by the train split's mean and variance: batch norm without affine parameters and
    epsilon, at the statistics that it converges to for fixed features. Weights start at zero and the problem
    is convex, so `seed` only orders the images.

    Args:
      features: (features float32 [L, D], label int64 []), one image an element.
      count: number of elements.
      classes: C.
      batch_size: images per step.
      epochs: passes over the features.
      learning_rate: Adam's peak, after linear warm-up and before cosine decay to 0; no weight decay.
      seed: for shuffling the images.

    Returns:
      Features [B, L, D] -> logits [B, L, C].
    """
    keras.utils.set_random_seed(seed)  # tf.data's shuffle mixes its seed with the global one
    blocks, width = features.element_spec[0].shape
    standardize = keras.layers.Normalization(axis=(1, 2))
    standardize.adapt(features.map(lambda feature, _: feature).batch(batch_size))
    inputs = keras.Input([blocks, width])
    linear = keras.layers.EinsumDense(
        "bld,ldc->blc", output_shape=(blocks, classes), bias_axes="lc", kernel_initializer="zeros"
    )
    model = keras.Model(inputs, linear(standardize(inputs)))

    steps = epochs * math.ceil(count / batch_size)
    warmup = round(WARMUP * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else learning_rate,
        max(steps - warmup, 1),
        warmup_target=learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=32,  # a call from Python takes longer than a step
        jit_compile=False,  # compiling would take longer than all steps of this size
    )
    batches = (
        features.shuffle(min(count, max(SHUFFLE_BYTES // (4 * blocks * width), batch_size)), seed=seed)
        .batch(batch_size)
        .map(lambda feature, label: (feature, tf.repeat(label[:, None], blocks, axis=1)))
        .repeat(epochs)
        .prefetch(tf.data.AUTOTUNE)
    )
    model.fit(batches, verbose=0)
    return model


def evaluate(model: keras.Model, features: tf.data.Dataset, batch_size: int) -> Accuracy:
    """Compute the accuracy by block, on features as for `train`."""

    @tf.function(reduce_retracing=True)
    def ranks(feature: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        logits = model(feature, training=False)
        wanted = tf.gather(tf.transpose(logits, [0, 2, 1]), label, batch_dims=1)
        # Count the logits strictly below, so that a tie or a NaN is not a hit.
        below = tf.reduce_sum(tf.cast(logits < wanted[:, :, None], tf.int32), axis=2)
        return tf.shape(logits)[2] - 1 - below

    rank = np.concatenate([ranks(*batch).numpy() for batch in features.batch(batch_size)])
    return Accuracy((rank < 1).mean(axis=0), (rank < 5).mean(axis=0))
