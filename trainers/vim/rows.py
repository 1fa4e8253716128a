"""Random augmentation of each training row: class dropout, and the order of its tokens."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from trainers.training.examples import Example
from trainers.vim.config import Model, RandomOrder


def row_augmentation(
    options: Model, *, tokens: int, no_class: int, batch_size: int
) -> Callable[[Example, tf.Tensor], Example]:
    """Build the `augment` of `trainers.training.examples` for VIM.

    Args:
      options: class dropout and random orders.
      tokens: N.
      no_class: the id that replaces a dropped label.
      batch_size: rows in a step; a row's step follows from its index in the data.

    Returns:
      From an example and its seed (int64 [2], the second its index in the data) to the example, its label
      perhaps dropped and, with random orders, with `order` int32 [N], a permutation.
    """

    def augment(example: Example, seed: tf.Tensor) -> Example:
        if options.class_conditional:
            dropped = _uniform(seed, purpose=1) < options.class_dropout
            example = {**example, "label": tf.where(dropped, no_class, example["label"])}
        if options.random_order:
            share = random_share(options.random_order, seed[1] // batch_size)
            shuffled = tf.random.experimental.stateless_shuffle(
                tf.range(tokens), seed=_seed_for(seed, purpose=2)
            )
            order = tf.where(_uniform(seed, purpose=3) < share, shuffled, tf.range(tokens))
            example = {**example, "order": order}
        return example

    return augment


def random_share(options: RandomOrder, step: tf.Tensor) -> tf.Tensor:
    """The probability of a random order at a step (from 0): 1, then falling linearly to 0; float32 scalar."""
    length = options.anneal_until - options.anneal_from
    left = tf.cast(options.anneal_until - step, tf.float32) / length
    return tf.clip_by_value(left, 0.0, 1.0)


def _uniform(seed: tf.Tensor, *, purpose: int) -> tf.Tensor:
    return tf.random.stateless_uniform([], _seed_for(seed, purpose=purpose))


def _seed_for(seed: tf.Tensor, *, purpose: int) -> tf.Tensor:
    # A seed for each purpose: crops use the seed itself, and equal seeds give equal numbers.
    return tf.random.experimental.stateless_fold_in(seed, purpose)
