"""How many rows the products of a pass have: its slots, each a place of an image.

The product of a matrix with one row sums in another order than with a hundred rows, so the last bits of a row
depend on their number. With a fixed number they do not, at any place among any other rows. More rows cost
more time than few. So sizes are chosen by what is asked for, where this library gives a row the same bits in
both: of the shapes that were tried, TensorFlow's products by oneDNN do from 2 rows on, and those by Eigen
from 8. This is not assumed: each call compares products of its own first block and logits.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from trainers.transformer import Dense
from trainers.vim import config
from trainers.vim.cached import Weights
from trainers.vim.model import VIM

# Numbers of rows that products may have, and the one whose bits are those of every image.
SIZES = (2, 4, 8, 16, 32, 64, 128)
REFERENCE = 16


class Plan(NamedTuple):
    """How a batch is drawn.

    Attributes:
      rows: int32 scalar, rows of a group; a guided image has two.
      window: int32 scalar W, places of each in a pass, so that products have as many rows as there are slots.
    """

    rows: tf.Tensor
    window: tf.Tensor


def plan(model: VIM, weights: Weights, options: config.Sampler, rows: tf.Tensor) -> Plan:
    """Choose the slots of a pass for a number of rows, int32 scalar.

    Sequential drawing takes the smallest size that holds all rows, or groups of `options.max_slots`. Jacobi
    fills up to `options.jacobi_slots` with further places of the same images.
    """
    sizes = [size for size in SIZES if size <= options.max_slots]

    def fitting(count: tf.Tensor) -> tf.Tensor:
        smaller = tf.reduce_sum(tf.cast(tf.constant(sizes) < count, tf.int32))
        return tf.gather(sizes, tf.minimum(smaller, len(sizes) - 1))

    slots = fitting(rows)
    if options.engine == "jacobi":
        slots = tf.maximum(slots, min(options.jacobi_slots, options.max_slots))
    slots = tf.where(_same_bits(model, weights, slots), slots, REFERENCE)
    if options.engine == "sequential":
        return Plan(slots, tf.constant(1))
    # So that products have all slots: neither more places than an image has, nor a part of the slots.
    longest = 2 ** (model.tokens.bit_length() - 1)
    group = tf.where(rows == 1, 1, tf.minimum(fitting(rows), slots))
    window = tf.minimum(slots // group, longest)
    return Plan(slots // window, window)


def compiled_window(model: VIM, options: config.Sampler, rows: tf.Tensor) -> tf.Tensor:
    """Choose the places of each row in a pass of XLA's program, which has so many rows, int32 scalars."""
    places = options.compiled_slots // rows if options.engine == "jacobi" else tf.constant(1)
    return tf.clip_by_value(places, 1, model.tokens)


def _same_bits(model: VIM, weights: Weights, size: tf.Tensor) -> tf.Tensor:
    """Whether products of `size` rows have the bits of those of `REFERENCE` rows, a bool scalar."""
    block = model.blocks[0]
    layers = (block.attention.qkv, block.attention.out, block.expand, block.contract, model.logits)
    kernels = (*weights.blocks[0], weights.logits)
    same = [_same_product(layer, kernel, size) for layer, kernel in zip(layers, kernels, strict=True)]
    return tf.reduce_all(same)


def _same_product(layer: Dense, kernel: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    # The same rows again and again, to the end of the product.
    few = tf.random.stateless_normal([REFERENCE, kernel.shape[0]], seed=[0, 0])
    many = tf.tile(few, [max(SIZES) // REFERENCE, 1])[:size]
    wanted = tf.tile(layer.of_rows(few, kernel), [max(SIZES) // REFERENCE, 1])[:size]
    return tf.reduce_all(layer.of_rows(many, kernel) == wanted)
