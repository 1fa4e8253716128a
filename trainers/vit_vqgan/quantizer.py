"""Quantizers: the codebook between encoder and decoder (section 3.2, equation 1).

`QUANTIZERS` maps `codebook.kind` to its layer. To add one, write its section in `config.py`, its layer here
and its cost in `accounting.py` (docs/extending.md).
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainers.vit_vqgan import config

# Decay of the running share of each code. With 0.98, dead codes were found only after a hundred steps, when
# the encoder had long settled on the few codes in use.
USAGE_DECAY = 0.9

# Temperature of `entropy`: at 0.01, a cosine that is larger by 0.05 weighs e^5 as much.
ENTROPY_TEMPERATURE = 0.01

# Keeps the outermost level of FSQ reachable: tanh never returns 1 (Mentzer et al. 2023, appendix A.1).
FSQ_MARGIN = 1e-3


class Quantized(NamedTuple):
    """The quantizer's output.

    Attributes:
      codes: float32 [B, N, dim], the decoder's input, with a straight-through gradient.
      tokens: int32 [B, N], in [0, size).
      loss: scalar, weighted by `loss.vq`; equation 1 for vector quantization.
      latents: float32 [B, N, dim], the values that were quantized.
    """

    codes: tf.Tensor
    tokens: tf.Tensor
    loss: tf.Tensor
    latents: tf.Tensor


class Quantizer(keras.layers.Layer, abc.ABC):
    """Interface of a quantizer; it computes in float32 under any policy.

    The method is `quantize_latents` because `keras.layers.Layer.quantize` converts weights to int8.
    """

    options: Any

    def __init__(self, **kwargs: Any):
        super().__init__(dtype="float32", **kwargs)

    def call(self, z: tf.Tensor, training: bool = False) -> Quantized:
        """Quantize z [B, N, dim]."""
        return self.quantize_latents(tf.cast(z, tf.float32), training=training)

    @abc.abstractmethod
    def quantize_latents(self, z: tf.Tensor, *, training: bool) -> Quantized:
        """Quantize z float32 [B, N, dim]."""

    @abc.abstractmethod
    def lookup(self, tokens: tf.Tensor) -> tf.Tensor:
        """Tokens int32 [B, N] to their codes, float32 [B, N, dim]."""

    def penalties(self, latents: tf.Tensor) -> dict[str, tuple[float, tf.Tensor]]:
        """Further terms of the loss by name: weight and value, scalar."""
        del latents
        return {}

    def statistics(self, latents: tf.Tensor, rows: tf.Tensor, batch_size: int) -> dict[str, tf.Tensor]:
        """Metrics of any shape that `post_step` needs beside `token_shares`.

        They are averaged over micro-batches and replicas.

        Args:
          latents: float32 [b, N, dim], those of this part of the batch.
          rows: int32 [b], the indices of its images in the whole batch, consecutive.
          batch_size: images in the whole batch.
        """
        del latents, rows, batch_size
        return {}

    def post_step(self, metrics: dict[str, tf.Tensor]) -> None:
        """Update what is learned without gradients, from the mean metrics of the whole batch."""
        del metrics


class VectorQuantizer(Quantizer):
    """A table of `size` codes of `dim` numbers, looked up by the nearest neighbour.

    In lower precision than float32, close codes cannot be told apart, and some are never chosen.
    """

    def __init__(self, options: config.VQ, *, seed: int, **kwargs: Any):
        super().__init__(**kwargs)
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

    def quantize_latents(self, z: tf.Tensor, *, training: bool) -> Quantized:
        """Quantize z float32 [B, N, dim].

        The nearest code is argmin_j ||z - e_j||^2 = argmax_j z.e_j - ||e_j||^2 / 2, on the sphere the
        greatest cosine. With sg the stop-gradient, the loss is equation 1,

            ||sg[z] - e||^2 + beta ||z - sg[e]||^2,

        a mean over tokens, and over dimensions a mean or a sum (`reduction`). Its first term, the codebook
        loss, trains the codes only; its second, the commitment loss, trains the encoder only. `codes` is
        straight-through, z + sg[e - z]: the code in the forward pass, the identity in the backward pass. In
        the first `continuous_steps` of training it is z itself, and the loss is 0.
        """
        table = self.table()
        z = self._normalized(z)
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
        return self._normalized(tf.convert_to_tensor(self.embedding))

    def penalties(self, latents: tf.Tensor) -> dict[str, tuple[float, tf.Tensor]]:
        """The entropy regularization, if it has a weight."""
        if not self.options.entropy:
            return {}
        return {"entropy": (self.options.entropy, self.entropy_loss(latents))}

    def statistics(self, latents: tf.Tensor, rows: tf.Tensor, batch_size: int) -> dict[str, tf.Tensor]:
        """The candidates for dead codes, if these are revived."""
        if not self.options.revive_below:
            return {}
        return {"candidates": self.candidates(latents, rows, batch_size)}

    def post_step(self, metrics: dict[str, tf.Tensor]) -> None:
        """Update the usage of codes and revive dead ones."""
        self.update_codebook(metrics["token_shares"], metrics.get("candidates"))

    def entropy_loss(self, latents: tf.Tensor) -> tf.Tensor:
        """Entropy regularization of latents [B, N, dim], scalar in nats.

        With p(j|z) the softmax of the closeness to each code over a temperature, E the mean over tokens
        and H the entropy,

            E[H(p(.|z))] - H(E[p(.|z)]):

        low if each token is certain of its code and all codes are used equally; at best -ln size.
        """
        logits = self._closeness(latents, self.table()) / ENTROPY_TEMPERATURE
        log_p = tf.nn.log_softmax(logits)
        p = tf.exp(log_p)
        mean = tf.reduce_mean(p, axis=[0, 1])
        of_each = -tf.reduce_mean(tf.reduce_sum(p * log_p, axis=-1))
        return of_each + tf.reduce_sum(tf.math.xlogy(mean, mean))

    def candidates(self, latents: tf.Tensor, rows: tf.Tensor, batch_size: int) -> tf.Tensor:
        """For each code a random latent of the whole batch, as far as this part of the batch holds it.

        Args:
          latents, rows, batch_size: as for `statistics`.

        Returns:
          float32 [size, dim]: scaled so that the mean over all parts is the drawn latents, however the batch
          is split.
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

    def update_codebook(self, shares: tf.Tensor, candidates: tf.Tensor | None) -> None:
        """Update the running share of each code, and move every dead code onto its candidate.

        A dead code gets no gradient and never returns by itself. A revived code starts with the uniform
        share, so that it has time to be used. Before the first discrete step every code counts as dead.

        Args:
          shares: float32 [size], the share of each code among the tokens of the whole batch.
          candidates: float32 [size, dim], see `candidates`; None if `revive_below` is 0.
        """
        usage = USAGE_DECAY * self.usage + (1.0 - USAGE_DECAY) * shares
        usage = tf.where(self.steps >= self.options.continuous_steps, usage, 0.0)
        if candidates is not None:
            uniform = 1.0 / self.options.size
            dead = usage < self.options.revive_below * uniform
            self.embedding.assign(tf.where(dead[:, tf.newaxis], candidates, self.embedding))
            usage = tf.where(dead, uniform, usage)
        self.usage.assign(usage)
        self.steps.assign_add(1)

    def _normalized(self, x: tf.Tensor) -> tf.Tensor:
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


class FiniteScalarQuantizer(Quantizer):
    """FSQ (Mentzer et al. 2023): each dimension is bounded by a tanh and rounded to one of its levels.

    With L levels, a dimension z becomes round(f(z)) with f(z) = tanh(z + s) h - o, where h = (L - 1) (1 + m)
    / 2 with a small margin m, and for even L the offset o = 1/2 makes the levels whole numbers and s =
    artanh(o / h) keeps f(0) = 0. Divided by L // 2, levels lie in [-1, 1]. The gradient is straight-through;
    there is no loss. A token is the number whose digits are the levels, the first dimension the fastest.
    """

    def __init__(self, options: config.FSQ, *, seed: int, **kwargs: Any):
        del seed  # nothing is drawn
        super().__init__(**kwargs)
        self.options = options
        levels = np.array(options.levels, np.float32)
        self._half_width = np.floor(levels / 2.0)
        self._scale = (levels - 1.0) * (1.0 + FSQ_MARGIN) / 2.0
        self._offset = np.where(levels % 2 == 0, 0.5, 0.0).astype(np.float32)
        self._shift = np.arctanh(self._offset / self._scale)
        self._basis = np.cumprod([1, *options.levels[:-1]]).astype(np.int32)

    def quantize_latents(self, z: tf.Tensor, *, training: bool) -> Quantized:
        """Quantize z float32 [B, N, dim]; the loss is 0."""
        del training
        bounded = tf.tanh(z + self._shift) * self._scale - self._offset
        rounded = tf.round(bounded)
        digits = tf.cast(rounded + self._half_width, tf.int32)
        latents = bounded / self._half_width
        codes = latents + tf.stop_gradient((rounded - bounded) / self._half_width)
        tokens = tf.reduce_sum(digits * self._basis, axis=-1)
        return Quantized(codes=codes, tokens=tokens, loss=tf.constant(0.0), latents=latents)

    def lookup(self, tokens: tf.Tensor) -> tf.Tensor:
        """Tokens int32 [B, N] to their codes, float32 [B, N, dim]."""
        digits = tokens[..., tf.newaxis] // self._basis % np.array(self.options.levels, np.int32)
        return (tf.cast(digits, tf.float32) - self._half_width) / self._half_width


QUANTIZERS: dict[str, Callable[..., Quantizer]] = {"vq": VectorQuantizer, "fsq": FiniteScalarQuantizer}


def token_shares(tokens: tf.Tensor, size: int) -> tf.Tensor:
    """The share of each of `size` codes among tokens (any shape), float32 [size], sum 1."""
    # Not tf.math.bincount: XLA refuses its bounds, even constant ones.
    counts = tf.math.unsorted_segment_sum(tf.ones_like(tokens, tf.float32), tokens, size)
    return counts / tf.cast(tf.size(tokens), tf.float32)


def usage(shares: tf.Tensor) -> tf.Tensor:
    """The share of codes that occur at all, in [0, 1] (Table 4)."""
    return tf.reduce_mean(tf.cast(shares > 0, tf.float32))


def perplexity(shares: tf.Tensor) -> tf.Tensor:
    """exp of the entropy of the codes, in [1, size]: this many codes, used equally, have the same entropy."""
    return tf.exp(-tf.reduce_sum(tf.math.xlogy(shares, shares)))
