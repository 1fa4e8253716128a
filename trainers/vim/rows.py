"""What is drawn anew for each training row: whether it starts with its class, and its order."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from trainers.training.examples import Example
from trainers.vim.config import Model, RandomOrder


def row_augmentation(
    options: Model, *, tokens: int, no_class: int, batch_size: int
) -> Callable[[Example, tf.Tensor], Example]:
    """An augmentation for `trainers.training.examples`.

    Args:
      options: says what is drawn.
      tokens: N.
      no_class: the id that starts a row without its class, which is `label` then.
      batch_size: rows in a step; a row's place in the data tells its step by it.

    Returns:
      From an example and its seed (int64 [2], its place in all streams second) to the example with its
      label perhaps dropped and, where orders are random, with `order` int32 [N], a permutation.
    """

    def augment(example: Example, seed: tf.Tensor) -> Example:
        if options.class_conditional:
            dropped = _uniform(seed, purpose=1) < options.label_drop
            example = {**example, "label": tf.where(dropped, no_class, example["label"])}
        if options.random_order:
            share = random_share(options.random_order, seed[1] // batch_size)
            shuffled = tf.random.experimental.stateless_shuffle(tf.range(tokens), seed=_own(seed, purpose=2))
            order = tf.where(_uniform(seed, purpose=3) < share, shuffled, tf.range(tokens))
            example = {**example, "order": order}
        return example

    return augment


def random_share(options: RandomOrder, step: tf.Tensor) -> tf.Tensor:
    """The probability of a random order at a step (from 0): 1, then linearly down to 0; float32 scalar."""
    length = options.anneal_until - options.anneal_from
    left = tf.cast(options.anneal_until - step, tf.float32) / length
    return tf.clip_by_value(left, 0.0, 1.0)


def _uniform(seed: tf.Tensor, *, purpose: int) -> tf.Tensor:
    return tf.random.stateless_uniform([], _own(seed, purpose=purpose))


def _own(seed: tf.Tensor, *, purpose: int) -> tf.Tensor:
    # A seed of its own for each purpose: crops are drawn from the seed itself, and the same seed gives the
    # same numbers to all.
    return tf.random.experimental.stateless_fold_in(seed, purpose)
