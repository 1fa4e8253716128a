"""Scaled dot-product attention: with all weights at once, or in blocks of keys.

Queries, keys and values are [B, H, N, d], the queries scaled already. Softmax is float32 under any policy.

`attend` is two products with the weights [B, H, N, N] between them, which training keeps: the fastest form on
a CPU. `attend_blockwise` (Rabe and Staats 2021, arXiv:2112.05682; Dao et al. 2022, arXiv:2205.14135) goes
over the keys in blocks, with a softmax that is corrected as it goes, and computes the weights again in the
backward pass. It keeps its output and one number a query, so that memory grows with N.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Keys in a block: a power of two that fills the lanes of an accelerator.
KEY_BLOCK = 128


def attend(
    queries: tf.Tensor,
    keys: tf.Tensor,
    values: tf.Tensor,
    *,
    causal: bool,
    rate: float = 0.0,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """Attend to all keys: [B, H, N, d].

    `causal` hides later keys from a query; with a seed [2], a share `rate` of the weights is dropped.
    """
    scores = tf.cast(tf.matmul(queries, keys, transpose_b=True), tf.float32)
    if causal:
        length = scores.shape[-1]
        visible = tf.linalg.band_part(tf.ones([length, length], tf.bool), -1, 0)
        scores = tf.where(visible, scores, scores.dtype.min)
    weights = tf.cast(dropout(tf.nn.softmax(scores), rate, seed), values.dtype)
    return tf.matmul(weights, values)


def attend_blockwise(
    queries: tf.Tensor,
    keys: tf.Tensor,
    values: tf.Tensor,
    *,
    causal: bool,
    rate: float = 0.0,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """The same attention, block by block; other weights are dropped for the same seed.

    With m the largest score of a query so far and l the sum of exp(score - m), a block with larger scores
    shrinks l and the output before it by exp(m_old - m_new). The backward pass computes the weights
    exp(score - m - ln l) again; with D the sum of output times its gradient, the gradient of a score is
    weight (gradient of the weight - D).
    """
    length = keys.shape[2]
    block = next(size for size in range(min(KEY_BLOCK, length), 0, -1) if length % size == 0)
    blocks = length // block
    offsets = tf.range(block)
    places = tf.range(queries.shape[2])

    def weigh(index: tf.Tensor, queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Scores of one block of keys, float32 [B, H, N, block]."""
        scores = tf.cast(tf.matmul(queries, keys, transpose_b=True), tf.float32)
        if not causal:
            return scores
        visible = places[:, tf.newaxis] >= index * block + offsets
        return tf.where(visible, scores, scores.dtype.min)

    def mask(index: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """What dropout multiplies the weights of a block by."""
        own = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), index)
        return dropout(tf.ones_like(weights), rate, own)

    def in_blocks(x: tf.Tensor) -> tf.Tensor:
        """[B, H, N, d] to [blocks, B, H, block, d]."""
        return tf.transpose(tf.reshape(x, [-1, x.shape[1], blocks, block, x.shape[3]]), [2, 0, 1, 3, 4])

    def loop(body: Callable[..., Any], start: Any) -> Any:
        _, result = tf.while_loop(
            lambda index, _: index < blocks,
            lambda index, carried: (index + 1, body(index, carried)),
            (tf.constant(0), start),
            parallel_iterations=1,
            maximum_iterations=blocks,
        )
        return result

    @tf.custom_gradient
    def attended(
        queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[..., Any]]:
        key_blocks, value_blocks = in_blocks(keys), in_blocks(values)

        def forward(index: tf.Tensor, carried: Any) -> Any:
            largest, total, output = carried
            scores = weigh(index, queries, key_blocks[index])
            larger = tf.maximum(largest, tf.reduce_max(scores, axis=-1, keepdims=True))
            shrink = tf.exp(largest - larger)
            weights = tf.exp(scores - larger)
            kept = weights if seed is None else weights * mask(index, weights)
            added = tf.matmul(tf.cast(kept, values.dtype), value_blocks[index])
            total = shrink * total + tf.reduce_sum(weights, axis=-1, keepdims=True)
            return larger, total, shrink * output + tf.cast(added, tf.float32)

        zeros = tf.zeros_like(queries, tf.float32)
        start = (zeros[..., :1] + zeros.dtype.min, zeros[..., :1], zeros)
        largest, total, output = loop(forward, start)
        output /= total
        log_total = largest + tf.math.log(total)

        def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            mean = tf.reduce_sum(tf.cast(upstream, tf.float32) * output, axis=-1, keepdims=True)

            def step(index: tf.Tensor, carried: Any) -> Any:
                of_queries, of_keys, of_values = carried
                own_keys, own_values = key_blocks[index], value_blocks[index]
                weights = tf.exp(weigh(index, queries, own_keys) - log_total)
                of_weights = tf.cast(tf.matmul(upstream, own_values, transpose_b=True), tf.float32)
                kept = weights
                if seed is not None:
                    dropped = mask(index, weights)
                    kept, of_weights = kept * dropped, of_weights * dropped
                of_scores = tf.cast(weights * (of_weights - mean), queries.dtype)
                of_queries += tf.cast(tf.matmul(of_scores, own_keys), tf.float32)
                of_keys = of_keys.write(index, tf.matmul(of_scores, queries, transpose_a=True))
                kept = tf.cast(kept, upstream.dtype)
                of_values = of_values.write(index, tf.matmul(kept, upstream, transpose_a=True))
                return of_queries, of_keys, of_values

            arrays = [
                tf.TensorArray(x.dtype, size=blocks, element_shape=[None, x.shape[1], block, x.shape[3]])
                for x in (keys, values)
            ]
            of_queries, *rest = loop(step, (tf.zeros_like(queries, tf.float32), *arrays))
            of_keys, of_values = (
                # [blocks, B, H, block, d] to [B, H, N, d].
                tf.reshape(tf.transpose(each.stack(), [1, 2, 0, 3, 4]), tf.shape(keys))
                for each in rest
            )
            return tf.cast(of_queries, queries.dtype), of_keys, of_values

        return tf.cast(output, values.dtype), backward

    return attended(queries, keys, values)


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Drop a share of x and scale the rest to keep its mean; all of x stays without a seed [2]."""
    if seed is None:
        return x
    return tf.nn.experimental.stateless_dropout(x, rate, tf.cast(seed, tf.int32))
