"""The codebook: factorized, l2-normalized vector quantization (section 3.2, equation 1)."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from trainers.vit_vqgan import config

# Share of the past in the running count of each code. With 0.98 dead codes were found only after a
# hundred steps, when the encoder had long settled on the few that were alive.
USAGE_MOMENTUM = 0.9

# How sharply `entropy` tells codes apart: at 0.01, a cosine that is better by 0.05 weighs e^5 as much.
ENTROPY_TEMPERATURE = 0.01


class Quantized(NamedTuple):
    """What the codebook makes of the encoder's output.

    Attributes:
      codes: float32 [B, N, dim], straight-through.
      tokens: int32 [B, N].
      loss: equation 1, scalar.
      latents: float32 [B, N, dim], what was quantized: the encoder's output, on the sphere.
    """

    codes: tf.Tensor
    tokens: tf.Tensor
    loss: tf.Tensor
    latents: tf.Tensor


class Codebook(keras.layers.Layer):
    """A table of `size` codes of `dim` numbers, looked up by the nearest neighbour, in float32.

    In lower precision close codes cannot be told apart, and some are never chosen.
    """

    def __init__(self, options: config.Codebook, *, seed: int, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.options = options
        self._seed = seed
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

    def call(self, z: tf.Tensor, training: bool = False) -> Quantized:
        """Quantizes z [B, N, dim].

        The nearest code is argmin_j ||z - e_j||^2 = argmax_j z.e_j - ||e_j||^2 / 2, on the sphere the
        greatest cosine. With sg the stop-gradient, the loss is equation 1,

            ||sg[z] - e||^2 + beta ||z - sg[e]||^2,

        a mean over tokens, and over dimensions a mean or a sum (`reduction`); its first term moves the
        codes alone, its second, the commitment loss, the encoder alone. `codes` is straight-through,
        z + sg[e - z]: the code on the way forward, the identity on the way back. In the first
        `continuous_steps` of training it is z itself, and there is no loss.
        """
        table = self.table()
        z = self._on_sphere(tf.cast(z, tf.float32))
        tokens = tf.argmax(self._closeness(z, table), axis=-1, output_type=tf.int32)
        codes = tf.gather(table, tokens)
        codebook_loss = self._squared(tf.stop_gradient(z) - codes)
        commitment_loss = self._squared(z - tf.stop_gradient(codes))
        loss = codebook_loss + self.options.beta * commitment_loss
        rounding = codes - z
        if training and self.options.continuous_steps:
            discrete = self.steps >= self.options.continuous_steps
            loss, rounding = tf.where(discrete, loss, 0.0), tf.where(discrete, rounding, 0.0)
        return Quantized(codes=z + tf.stop_gradient(rounding), tokens=tokens, loss=loss, latents=z)

    def lookup(self, tokens: tf.Tensor) -> tf.Tensor:
        """Tokens int32 [B, N] to their codes, float32 [B, N, dim]."""
        return tf.gather(self.table(), tokens)

    def table(self) -> tf.Tensor:
        """The codes as they are compared and looked up, float32 [size, dim]."""
        return self._on_sphere(tf.convert_to_tensor(self.embedding))

    def entropy_loss(self, latents: tf.Tensor) -> tf.Tensor:
        """Entropy regularization of latents [B, N, dim], scalar in nats.

        With p(j|z) the softmax of the closeness to each code over a temperature, E the mean over tokens
        and H the entropy,

            E[H(p(.|z))] - H(E[p(.|z)]):

        low where each token is sure of its code and all codes are used alike; -ln size at best.
        """
        logits = self._closeness(latents, self.table()) / ENTROPY_TEMPERATURE
        log_p = tf.nn.log_softmax(logits)
        p = tf.exp(log_p)
        mean = tf.reduce_mean(p, axis=[0, 1])
        of_each = -tf.reduce_mean(tf.reduce_sum(p * log_p, axis=-1))
        return of_each + tf.reduce_sum(tf.math.xlogy(mean, mean))

    def candidates(self, latents: tf.Tensor, rows: tf.Tensor, batch_size: int) -> tf.Tensor:
        """For each code a latent of the whole batch, drawn at random, as this part of it knows them.

        Args:
          latents: float32 [b, N, dim], those of this part.
          rows: int32 [b], the places of its images in the whole batch, which follow one another.
          batch_size: images in the whole batch.

        Returns:
          float32 [size, dim]: what the mean over all parts needs in order to be the drawn latents,
          whatever parts the batch was cut into.
        """
        images, tokens = latents.shape[:2]
        picks = tf.random.stateless_uniform(
            [self.options.size],
            [self._seed, tf.convert_to_tensor(self.steps)],
            maxval=batch_size * tokens,
            dtype=tf.int32,
        )
        places = picks - rows[0] * tokens
        here = (places >= 0) & (places < images * tokens)
        flat = tf.reshape(tf.stop_gradient(latents), [-1, self.options.dim])
        drawn = tf.gather(flat, tf.clip_by_value(places, 0, images * tokens - 1))
        return tf.where(here[:, tf.newaxis], drawn * (batch_size / images), 0.0)

    def follow(self, shares: tf.Tensor, candidates: tf.Tensor | None) -> None:
        """Keeps the running count of codes, and moves every dead code onto its candidate.

        Dead codes get no gradient and never come back by themselves. A revived code starts with a fair
        share, so that it has the time to prove itself. Before the first discrete step every code counts
        as dead.

        Args:
          shares: float32 [size], the share of each code among the tokens of the whole batch.
          candidates: float32 [size, dim], see `candidates`; None where `revive_below` is 0.
        """
        usage = USAGE_MOMENTUM * self.usage + (1.0 - USAGE_MOMENTUM) * shares
        usage = tf.where(self.steps >= self.options.continuous_steps, usage, 0.0)
        if candidates is not None:
            fair = 1.0 / self.options.size
            dead = usage < self.options.revive_below * fair
            self.embedding.assign(tf.where(dead[:, tf.newaxis], candidates, self.embedding))
            usage = tf.where(dead, fair, usage)
        self.usage.assign(usage)
        self.steps.assign_add(1)

    def _on_sphere(self, x: tf.Tensor) -> tf.Tensor:
        return tf.math.l2_normalize(x, axis=-1) if self.options.l2_normalized else x

    def _closeness(self, z: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        """-||z - e||^2 / 2 up to a constant of each z: [B, N, dim] and [size, dim] to [B, N, size]."""
        flat = tf.matmul(tf.reshape(z, [-1, self.options.dim]), table, transpose_b=True)
        closeness = tf.reshape(flat, [-1, z.shape[1], self.options.size])
        if not self.options.l2_normalized:
            closeness -= 0.5 * tf.reduce_sum(tf.square(table), axis=-1)
        return closeness

    def _squared(self, difference: tf.Tensor) -> tf.Tensor:
        """The mean over tokens of a squared difference [B, N, dim], over dimensions as configured."""
        factor = self.options.dim if self.options.reduction == "sum" else 1
        return factor * tf.reduce_mean(tf.square(difference))


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
