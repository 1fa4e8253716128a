"""The codebook: factorized, l2-normalized vector quantization (section 3.2, equation 1)."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from trainers.vit_vqgan import config

# Share of the past in the running count of each code. With 0.98 dead codes were found only after a
# hundred steps, when the encoder had long settled on the few that were alive.
USAGE_MOMENTUM = 0.9


class Quantized(NamedTuple):
    """What the codebook makes of the encoder's output: codes [B, N, dim], tokens int32 [B, N], loss."""

    codes: tf.Tensor
    tokens: tf.Tensor
    loss: tf.Tensor


class Codebook(keras.layers.Layer):
    """A table of `size` codes of `dim` numbers, looked up by the nearest neighbour."""

    def __init__(self, options: config.Codebook, *, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.options = options
        self.embedding = self.add_weight(
            name="embedding",
            shape=(options.size, options.dim),
            initializer=keras.initializers.RandomNormal(stddev=1.0, seed=seed),
        )
        self.usage = self.add_weight(
            name="usage",
            shape=(options.size,),
            initializer=keras.initializers.Constant(1.0 / options.size),
            trainable=False,
        )
        self.steps = self.add_weight(
            name="steps", shape=(), dtype="int64", initializer="zeros", trainable=False
        )
        self.random = keras.random.SeedGenerator(seed)

    def call(self, z: tf.Tensor, training: bool = False) -> Quantized:
        """Quantizes z [B, N, dim].

        The nearest code is argmin_j ||z - e_j||^2 = argmax_j z.e_j - ||e_j||^2 / 2, on the sphere the
        greatest cosine. With sg the stop-gradient, the loss is equation 1,

            ||sg[z] - e||^2 + beta ||z - sg[e]||^2,

        a mean over tokens and dimensions; its first term moves the codes alone, its second, the
        commitment loss, the encoder alone. `codes` is straight-through, z + sg[e - z]: the code on the
        way forward, the identity on the way back. In the first `continuous_steps` of training it is z
        itself, and there is no loss.
        """
        table = self.table()
        z = self._on_sphere(tf.cast(z, tf.float32))
        tokens = self._nearest(z, table)
        codes = tf.gather(table, tokens)
        codebook_loss = tf.reduce_mean(tf.square(tf.stop_gradient(z) - codes))
        commitment_loss = tf.reduce_mean(tf.square(z - tf.stop_gradient(codes)))
        loss = codebook_loss + self.options.beta * commitment_loss
        rounding = codes - z
        if training:
            discrete = self.steps >= self.options.continuous_steps
            loss, rounding = tf.where(discrete, loss, 0.0), tf.where(discrete, rounding, 0.0)
            self._count(tokens, discrete)
            if self.options.revive_below:
                self._revive(z)
            self.steps.assign_add(1)
        return Quantized(codes=z + tf.stop_gradient(rounding), tokens=tokens, loss=loss)

    def lookup(self, tokens: tf.Tensor) -> tf.Tensor:
        """Tokens int32 [B, N] to their codes, float32 [B, N, dim]."""
        return tf.gather(self.table(), tokens)

    def table(self) -> tf.Tensor:
        """The codes as they are compared and looked up, float32 [size, dim]."""
        return self._on_sphere(tf.convert_to_tensor(self.embedding))

    def _on_sphere(self, x: tf.Tensor) -> tf.Tensor:
        return tf.math.l2_normalize(x, axis=-1) if self.options.l2_normalized else x

    def _nearest(self, z: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        closeness = tf.einsum("bnd,kd->bnk", z, table)
        if not self.options.l2_normalized:
            closeness -= 0.5 * tf.reduce_sum(tf.square(table), axis=-1)
        return tf.argmax(closeness, axis=-1, output_type=tf.int32)

    def _count(self, tokens: tf.Tensor, discrete: tf.Tensor) -> None:
        """Keeps the running count; before the first discrete step every code counts as dead."""
        shares = token_shares(tokens, self.options.size)
        usage = USAGE_MOMENTUM * self.usage + (1.0 - USAGE_MOMENTUM) * shares
        self.usage.assign(tf.where(discrete, usage, 0.0))

    def _revive(self, z: tf.Tensor) -> None:
        """Moves every dead code onto an encoder output of this batch, each drawn at random.

        Dead codes get no gradient and never come back by themselves. A revived code starts with a fair
        share, so that it has the time to prove itself.
        """
        outputs = tf.stop_gradient(tf.reshape(z, [-1, self.options.dim]))
        picks = tf.random.stateless_uniform(
            [self.options.size], self.random.next(), maxval=tf.shape(outputs)[0], dtype=tf.int32
        )
        fair = 1.0 / self.options.size
        dead = self.usage < self.options.revive_below * fair
        self.embedding.assign(tf.where(dead[:, tf.newaxis], tf.gather(outputs, picks), self.embedding))
        self.usage.assign(tf.where(dead, fair, self.usage))


def token_shares(tokens: tf.Tensor, size: int) -> tf.Tensor:
    """The share of each of `size` codes among tokens (any shape), float32 [size], sum 1."""
    # Not tf.math.bincount: XLA refuses its bounds, even constant ones.
    counts = tf.math.unsorted_segment_sum(tf.ones_like(tokens, tf.float32), tokens, size)
    return counts / tf.cast(tf.size(tokens), tf.float32)


def usage(shares: tf.Tensor) -> tf.Tensor:
    """The share of codes that occur at all, in [0, 1] (Table 4)."""
    return tf.reduce_mean(tf.cast(shares > 0, tf.float32))


def perplexity(shares: tf.Tensor) -> tf.Tensor:
    """exp of the entropy of the codes, in [1, size]: as many codes, used evenly, would tell as much."""
    return tf.exp(-tf.reduce_sum(tf.math.xlogy(shares, shares)))
