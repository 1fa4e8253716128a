"""Gumbel noise for sampling, a pure function of seed, place and code.

The largest of logits plus Gumbel noise is a sample of their softmax (Gumbel 1954; Maddison et al. 2014).
Noise that is given beforehand makes sampling a function: the same noise with slightly different logits mostly
gives the same code, which Jacobi iteration depends on (`trainers.vim.sampler`).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from trainers.kv_cache import REGISTER

# Constants of lowbias32, a mixing function of 32 bits (Wellons 2018, "Prospecting for Hash Functions").
_FACTORS = (0x21F0AAAD, 0xD35A2D97)
_SHIFTS = (16, 15, 15)
# Codes are apart by the golden ratio of 2^32.
_GOLDEN = 0x9E3779B9


def keys(seed: tf.Tensor, places: int) -> tf.Tensor:
    """The keys of all places of images, uint32 [B, N, 2], each image's from its seed int64 [B] alone."""
    return tf.map_fn(
        lambda one: tf.random.stateless_uniform(
            [places, 2], tf.stack([one, 0]), minval=None, maxval=None, dtype=tf.uint32, alg="philox"
        ),
        seed,
        fn_output_signature=tf.TensorSpec([places, 2], tf.uint32),
    )


def noise(keys: tf.Tensor, codes: int) -> tf.Tensor:
    """Standard Gumbel noise float32 [..., codes] for keys uint32 [..., 2].

    TensorFlow draws for one seed at a time, and rows and places have seeds of their own. So its generator
    draws the keys, and the numbers of codes are hashes of key and code: some ten operations for all rows.
    """
    # Whole vector registers: logarithms of a remainder have other last bits.
    padded = -(-codes // REGISTER) * REGISTER
    x = tf.bitwise.bitwise_xor(tf.constant(_code_hashes(padded)), keys[..., :1])
    x = _folded(_folded(x, _SHIFTS[0]) * _FACTORS[0], _SHIFTS[1]) + keys[..., 1:]
    x = _folded(x * _FACTORS[1], _SHIFTS[2])
    # The middles of 2^23 intervals of (0, 1), exact in float32.
    uniform = (tf.cast(tf.bitwise.right_shift(x, tf.constant(9, tf.uint32)), tf.float32) + 0.5) * 2.0**-23
    return -tf.math.log(-tf.math.log(uniform))[..., :codes]


def _code_hashes(codes: int) -> np.ndarray:
    """A number for each code, uint32 [codes]; their differences have bits everywhere."""
    x = np.arange(codes, dtype=np.uint32) * np.uint32(_GOLDEN)
    for shift, factor in zip(_SHIFTS, (*_FACTORS, 1), strict=True):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x


def _folded(x: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))
