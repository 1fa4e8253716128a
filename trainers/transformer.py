"""The Transformer block of ViT-VQGAN's towers and VIM (Table 2), and its KV cache for sampling.

Pre-norm, GELU inside, no layer norm after the last block (each model adds its own).

Under Keras' `mixed_bfloat16` policy products are bfloat16, and three things stay float32: layer norms,
softmax, and the residual stream. A block adds two terms to the residual stream; in bfloat16, with 8 bits,
each addition would round away what is smaller than a 256th of the sum. float32 costs two elementwise
additions a block.

How the operations are written decides what TensorFlow's graph fuses on a CPU: see docs/performance.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from trainers.attention import attend, attend_blockwise, dropout
from trainers.training.config import Memory, Transformer

# `Dense.step` splits its product into so many, which the cores share.
STEP_PRODUCTS = 4
# Numbers in a vector register: 16 of 32 bits, with AVX-512.
REGISTER = 16


class KVCache(NamedTuple):
    """Keys and values of one attention layer at the positions so far, [B, H, N, D / H] each, 0 beyond."""

    keys: tf.Tensor
    values: tf.Tensor


def init_cache(attention: SelfAttention, rows: tf.Tensor, positions: int) -> KVCache:
    """An empty cache of N positions for B rows, all zeros."""
    shape = tf.stack([rows, attention.heads, positions, attention.head_dim])
    return KVCache(tf.zeros(shape, attention.compute_dtype), tf.zeros(shape, attention.compute_dtype))


def update_cache(cache: KVCache, key: tf.Tensor, value: tf.Tensor, position: tf.Tensor) -> KVCache:
    """Write key and value [B, H, 1, D / H] at one position, which is 0 before."""
    return KVCache(_write(cache.keys, key, position), _write(cache.values, value, position))


def _write(cached: tf.Tensor, new: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    rows, heads = tf.shape(cached)[0], cached.shape[1]
    at = tf.stack(tf.meshgrid(tf.range(rows), tf.range(heads), position, indexing="ij"), axis=-1)
    # TensorFlow's only scatter that writes in place on a CPU, if nothing else holds its input:
    # `tensor_scatter_nd_update` copies the whole cache at every position. It has no XLA kernel.
    return tf.raw_ops.ScatterNdNonAliasingAdd(input=cached, indices=at, updates=new)


class Dense(keras.layers.Dense):
    """Keras' dense layer with all leading dimensions flattened.

    On [B, N, D] Keras multiplies batch by batch, and the kernel's gradient becomes B products and their sum.
    As one product, self-attention over 16 tokens of width 128 trains 1.6 times as fast.
    """

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, ..., D] to [B, ..., units]."""
        product = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), self.kernel)
        # In this form, with the bias' shape known, bias and GELU are fused into the product.
        flat = self.activation(tf.nn.bias_add(product, tf.ensure_shape(self.learned_bias(), [self.units])))
        return tf.reshape(flat, [-1, *x.shape[1:-1], self.units])

    def learned_bias(self) -> tf.Tensor:
        """The bias, as far as gradients reach it."""
        return self.bias

    def step(self, x: tf.Tensor) -> tf.Tensor:
        """[B, D] to [B, units], each row by itself: bit-identical in any batch.

        The product of a whole batch sums in an order that depends on the number of rows, and a sampled token
        depends on the last bit. Split into products with parts of the kernel, which the cores share, a row's
        product runs at memory bandwidth.
        """
        parts = math.gcd(x.shape[-1], STEP_PRODUCTS)
        # In the kernel's own precision under any policy: a cast would take longer than reading it.
        kernel = tf.reshape(self.kernel, [parts, 1, -1, self.units])
        rows = tf.reshape(tf.cast(x, kernel.dtype), [-1, parts, 1, x.shape[-1] // parts])
        product = tf.reduce_sum(tf.matmul(tf.transpose(rows, [1, 0, 2, 3]), kernel), axis=0)[:, 0]
        return tf.cast(self.activation(tf.nn.bias_add(product, self.bias)), self.compute_dtype)


class QKV(Dense):
    """The projection to queries, keys and values, [B, N, 3 D]; no gradient reaches the bias of the keys.

    It adds the same number to all scores of a query, which softmax does not see. Its gradient is 0 but for
    rounding, and Adam, which divides by the size of gradients, would make full steps from it.
    """

    def learned_bias(self) -> tf.Tensor:
        """The bias, that of the keys fixed."""
        queries, keys, values = tf.split(tf.convert_to_tensor(self.bias), 3)
        return tf.concat([queries, tf.stop_gradient(keys), values], axis=0)


class LayerNorm(keras.layers.LayerNormalization):
    """Layer norm over the last axis, computed and returned in float32 under any policy."""

    def __init__(self, **kwargs):
        super().__init__(epsilon=1e-6, dtype="float32", **kwargs)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, ..., D] to float32 [B, ..., D], mean 0 and variance 1 before scale and offset."""
        if x.shape[0] is not None:
            return super().call(x)
        # The batch size is unknown when a model is served. There a batch norm whose channels are the rows is
        # one operation of TensorFlow's on a CPU and takes a quarter of the time.
        rows = tf.reduce_prod(tf.shape(x)[:-1], keepdims=True)
        normalized, _, _ = tf.compat.v1.nn.fused_batch_norm(
            tf.reshape(x, [1, -1, x.shape[-1], 1]),
            scale=tf.fill(rows, 1.0),
            offset=tf.fill(rows, 0.0),
            epsilon=self.epsilon,
            data_format="NCHW",
        )
        return tf.reshape(normalized, tf.shape(x)) * self.gamma + self.beta

    def step(self, x: tf.Tensor) -> tf.Tensor:
        """The same, each row by itself: bit-identical in any batch."""
        x = tf.cast(x, tf.float32)
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        # Root and quotient are exact. If they meet, Grappler fuses them into rsqrt, whose last bits differ
        # for the last few numbers of a tensor; the maximum keeps them apart.
        deviation = tf.maximum(tf.sqrt(variance + self.epsilon), 0.0)
        return centred / deviation * self.gamma + self.beta


class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention over [B, N, D].

    `causal` masks later positions. With `qk_norm`, queries and keys go through a layer norm each (Dehghani et
    al. 2023), so that scores cannot grow without bound.
    """

    def __init__(self, size: Transformer, *, causal: bool, dropout: float, qk_norm: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.heads = size.heads
        self.head_dim = size.width // size.heads
        self.causal = causal
        self.rate = dropout
        # Behind a norm of its own, a bias of the keys does matter.
        self.qkv = (Dense if qk_norm else QKV)(3 * size.width, name="qkv")
        self.query_norm = LayerNorm(name="query_norm") if qk_norm else None
        self.key_norm = LayerNorm(name="key_norm") if qk_norm else None
        self.out = Dense(size.width, name="out")

    def build(self, shape):
        """Builds every layer for inputs of `shape` [B, N, D]."""
        self.qkv.build(shape)
        self.out.build(shape)
        for norm in (self.query_norm, self.key_norm):
            if norm:
                norm.build((None, self.heads, None, self.head_dim))

    def call(self, x: tf.Tensor, seed: tf.Tensor | None = None, blockwise: bool = False) -> tf.Tensor:
        """[B, N, D] to [B, N, D]; with a seed [2] attention weights are dropped."""
        queries, keys, values = self._heads(self.qkv(x))
        core = attend_blockwise if blockwise else attend
        mixed = core(queries, keys, values, causal=self.causal, rate=self.rate, seed=seed)
        return self.out(tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, *x.shape[1:]]))

    def step(self, x: tf.Tensor, cache: KVCache, position: tf.Tensor) -> tuple[tf.Tensor, KVCache]:
        """Compute one position of the causal call, with the earlier ones from the cache.

        Args:
          x: [B, D], the input at `position`.
          cache: filled at the positions before this one, 0 from here on.
          position: int32 scalar.

        Returns:
          The output [B, D] and the updated cache.
        """
        query, key, value = self._heads(self.qkv.step(x)[:, tf.newaxis], by_row=True)
        cache = update_cache(cache, key, value, position)
        scores = tf.cast(tf.matmul(query, cache.keys, transpose_b=True), tf.float32)
        visible = tf.range(cache.keys.shape[2]) <= position
        weights = softmax_by_row(tf.where(visible, scores, scores.dtype.min))
        mixed = tf.matmul(tf.cast(weights, cache.values.dtype), cache.values)
        return self.out.step(tf.reshape(mixed, [-1, x.shape[-1]])), cache

    def _heads(self, qkv: tf.Tensor, *, by_row: bool = False) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """[B, N, 3 D] to queries (scaled), keys and values, each [B, H, N, D / H]."""
        split = tf.reshape(qkv, [-1, qkv.shape[1], 3, self.heads, self.head_dim])
        queries, keys, values = tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4]))
        if self.query_norm and self.key_norm:
            norms = (self.query_norm, self.key_norm)
            queries, keys = (
                tf.cast(norm.step(x) if by_row else norm(x), values.dtype)
                for norm, x in zip(norms, (queries, keys), strict=True)
            )
        return queries * self.head_dim**-0.5, keys, values


class Block(keras.layers.Layer):
    """Attention and a feed-forward layer, each behind a layer norm and added to the residual stream.

    Dropout acts on attention weights, activations and both residual outputs (section 4). The residual stream,
    input and output of the block, is float32 under any policy.
    """

    def __init__(
        self,
        size: Transformer,
        *,
        causal: bool = False,
        dropout: float = 0.0,
        qk_norm: bool = False,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.norm_1 = LayerNorm(name="norm_1")
        self.attention = SelfAttention(
            size, causal=causal, dropout=dropout, qk_norm=qk_norm, name="attention"
        )
        self.norm_2 = LayerNorm(name="norm_2")
        self.expand = Dense(size.hidden, activation="gelu", name="expand")
        self.contract = Dense(size.width, name="contract")
        self.rate = dropout
        self.random = keras.random.SeedGenerator() if dropout else None

    def build(self, shape):
        """Builds every layer for inputs of `shape` [B, N, D]."""
        for layer in (self.norm_1, self.attention, self.norm_2, self.expand):
            layer.build(shape)
        self.contract.build((*shape[:-1], self.expand.units))

    def call(self, x: tf.Tensor, training: bool = False, memory: Memory = Memory()) -> tf.Tensor:
        """[B, N, D] to float32 [B, N, D].

        With `memory.gradient_checkpointing` only the input is kept for the backward pass, and the rest is
        recomputed there (Chen et al. 2016): the same gradients, in a third more time. With
        `memory.blockwise_attention`, training does not keep the attention weights (`trainers.attention`).
        """
        # Drawn here, so that the recomputation drops the same.
        drawn = [_of_replica(self.random.next()) if training and self.random else None for _ in range(4)]

        def forward(x: tf.Tensor) -> tf.Tensor:
            seeds = [_bound_to(x, seed) for seed in drawn] if memory.gradient_checkpointing else drawn
            attended = self.attention(
                self.norm_1(x), seed=seeds[0], blockwise=training and memory.blockwise_attention
            )
            return self._feed_forward(_add(x, dropout(attended, self.rate, seeds[1])), seeds[2:])

        return tf.recompute_grad(forward)(x) if memory.gradient_checkpointing else forward(x)

    def step(self, x: tf.Tensor, cache: KVCache, position: tf.Tensor) -> tuple[tf.Tensor, KVCache]:
        """One position [B, D] of the causal call; see `SelfAttention.step`."""
        attended, cache = self.attention.step(self.norm_1.step(x), cache, position)
        x = _add(x, attended)
        return _add(x, self.contract.step(self.expand.step(self.norm_2.step(x)))), cache

    def _feed_forward(self, x: tf.Tensor, seeds: Sequence[tf.Tensor | None]) -> tf.Tensor:
        hidden = dropout(self.expand(self.norm_2(x)), self.rate, seeds[0])
        return _add(x, dropout(self.contract(hidden), self.rate, seeds[1]))


def run_blocks(
    blocks: Sequence[Block], x: tf.Tensor, *, training: bool, memory: Memory = Memory()
) -> tf.Tensor:
    """Run a stack of blocks on [B, N, D]; returns float32 [B, N, D]."""
    for block in blocks:
        x = block(x, training=training, memory=memory)
    return x


def softmax_by_row(x: tf.Tensor) -> tf.Tensor:
    """Softmax over the last axis, each row by itself: bit-identical in any batch."""
    # The exponentials of a remainder that does not fill a vector register have other last bits: pad it.
    width = x.shape[-1]
    padding = [[0, 0]] * (x.shape.rank - 1) + [[0, -width % REGISTER]]
    x = tf.pad(x, padding, constant_values=x.dtype.min)
    shares = tf.exp(x - tf.reduce_max(x, axis=-1, keepdims=True))
    return (shares / tf.reduce_sum(shares, axis=-1, keepdims=True))[..., :width]


def _add(residual: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    return tf.cast(residual, tf.float32) + tf.cast(output, tf.float32)


def _of_replica(seed: tf.Tensor) -> tf.Tensor:
    """Fold the replica's id into a seed [2]: the generators of all replicas are in the same state."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return seed
    return tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), context.replica_id_in_sync_group)


def _bound_to(x: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor | None:
    """The seed, as something that is computed from x [B, N, D].

    XLA computes what two places have in common once. From seeds alone, the random bits of forward pass and
    recomputation are the same, and would be kept in between: for VIM-Large 28 GB of them.
    """
    if seed is None:
        return None
    return seed + tf.cast(tf.math.is_nan(x[0, 0, 0]), seed.dtype)
