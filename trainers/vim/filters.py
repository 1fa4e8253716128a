"""From logits to tokens: guidance, the codes that top-k and top-p keep, and the draw.

Logits are [B, W, K], of W places of each row; options are [B] or [B, W].
"""

from __future__ import annotations

import tensorflow as tf

from serving.export.sampling_params import BatchSamplingParams
from trainers.kv_cache import REGISTER


def guide(logits: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): logits [2 B, W, K] to [B, W, K].

    The first half is with class, the second without. A scale s [B, W] adds s times their difference to the
    logits without class; 1 leaves those with class as they are.
    """
    with_class, without = tf.split(logits, 2)
    scale = scale[..., tf.newaxis]
    return tf.where(scale == 1.0, with_class, without + scale * (with_class - without))


def draw(logits: tf.Tensor, noise: tf.Tensor, params: BatchSamplingParams) -> tf.Tensor:
    """Draw a token at each place, int32 [B, W]: the largest of kept logits and noise, by temperature.

    Temperature 0 takes the most likely token.

    Args:
      logits: float32 [B, W, K].
      noise: Gumbel noise float32 [B, W, K], the only randomness.
      params: [B] each; the guidance scales are not used.
    """
    scores = keep(logits, params) + params.temperature[:, tf.newaxis, tf.newaxis] * noise
    return tf.argmax(scores, axis=-1, output_type=tf.int32)


def keep(logits: tf.Tensor, params: BatchSamplingParams) -> tf.Tensor:
    """Make the logits of codes that top-k or top-p leave out too low to be sampled.

    Codes are ranked by probability. Rank r is kept if r < top_k and if the ranks before it hold less than
    top_p of the probability (nucleus sampling, Holtzman et al. 2019); the first is always kept. If no row has
    a filter, nothing is ranked: sorting 8192 codes for each token takes longer than the rest of a pass.
    """
    filtered = (params.top_k > 0) | (params.top_p < 1.0)

    def ranked() -> tf.Tensor:
        kept = _kept(logits, params)
        return tf.where(kept | ~filtered[:, tf.newaxis, tf.newaxis], logits, logits.dtype.min)

    return tf.cond(tf.reduce_any(filtered), ranked, lambda: logits)


def _kept(logits: tf.Tensor, params: BatchSamplingParams) -> tf.Tensor:
    """Whether each code is kept, bool [B, W, K]."""
    codes = logits.shape[-1]
    # Whole vector registers: exponentials of a remainder have other last bits.
    padded = tf.pad(logits, [[0, 0], [0, 0], [0, -codes % REGISTER]], constant_values=logits.dtype.min)
    ranked, order = tf.math.top_k(padded, k=padded.shape[-1])
    temperature = tf.where(params.temperature == 0.0, 1.0, params.temperature)[:, tf.newaxis, tf.newaxis]
    shares = tf.exp((ranked - ranked[..., :1]) / temperature)
    before = tf.cumsum(shares, axis=-1, exclusive=True)
    total = before[..., -1:] + shares[..., -1:]
    rank = tf.range(padded.shape[-1])
    limit = tf.where(params.top_k == 0, codes, params.top_k)[:, tf.newaxis, tf.newaxis]
    # Without a nucleus all ranks are kept, even if rounding lets the sum reach 1 early.
    nucleus = tf.where(params.top_p == 1.0, float("inf"), params.top_p)[:, tf.newaxis, tf.newaxis]
    kept = (rank < limit) & ((before < nucleus * total) | (rank == 0))
    # From ranks back to codes.
    return tf.gather(kept, tf.argsort(order), batch_dims=2)[..., :codes]
