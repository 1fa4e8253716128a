"""The Transformer block that ViT-VQGAN's towers and VIM have in common (Table 2).

Pre-norm, GELU inside, no layer norm after the last block (each model adds its own).

Under Keras' `mixed_bfloat16` policy products are bfloat16, and three things stay float32: layer norms,
softmax, and the residual path. The path is a sum of two terms a block; in bfloat16, 8 bits, each addition
would round away what is smaller than a 256th of all before it. It costs two elementwise additions a block.

How the operations are written decides what TensorFlow's graph fuses on a CPU: see docs/performance.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from trainers.training.config import Transformer

# Keys and values of one attention, [B, H, N, D / H] each.
Cache = tuple[tf.Tensor, tf.Tensor]

PARTS_OF_A_STEP = 4
# Numbers in a vector register: 16 of 32 bits, with AVX-512.
REGISTER = 16


class Dense(keras.layers.Dense):
    """Keras' dense layer with all leading dimensions made one.

    On [B, N, D] Keras multiplies batch by batch, and the kernel's gradient becomes B products and their
    sum; as one product, self-attention over 16 tokens of width 128 trains 1.6 times as fast.
    """

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, ..., D] to [B, ..., units]."""
        product = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), self.kernel)
        # Bias and GELU become part of the product where they follow in this form, the bias' shape known.
        flat = self.activation(tf.nn.bias_add(product, tf.ensure_shape(self.bias, [self.units])))
        return tf.reshape(flat, [-1, *x.shape[1:-1], self.units])

    def step(self, x: tf.Tensor) -> tf.Tensor:
        """[B, D] to [B, units], each row by itself: to the last bit the same in any batch.

        The product of a whole batch sums in an order that depends on the number of rows, and a drawn token
        turns on the last bit. Products of a row with parts of the kernel, of which each core takes some, read
        it as fast as memory gives it.
        """
        parts = math.gcd(x.shape[-1], PARTS_OF_A_STEP)
        # In the kernel's own precision under any policy: to cast it would take longer than to read it.
        kernel = tf.reshape(self.kernel, [parts, 1, -1, self.units])
        rows = tf.reshape(tf.cast(x, kernel.dtype), [-1, parts, 1, x.shape[-1] // parts])
        product = tf.reduce_sum(tf.matmul(tf.transpose(rows, [1, 0, 2, 3]), kernel), axis=0)[:, 0]
        return tf.cast(self.activation(tf.nn.bias_add(product, self.bias)), self.compute_dtype)


class LayerNorm(keras.layers.LayerNormalization):
    """Layer norm over the last axis, computed and returned in float32 under any policy."""

    def __init__(self, **kwargs):
        super().__init__(epsilon=1e-6, dtype="float32", **kwargs)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, ..., D] to float32 [B, ..., D], mean 0 and variance 1 before scale and offset."""
        if x.shape[0] is not None:
            return super().call(x)
        # The batch size is unknown where a model is served. There, as a batch norm whose channels are the
        # rows, it becomes one operation of TensorFlow's on a CPU and takes a quarter of the time.
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
        """The same, each row by itself: to the last bit the same in any batch."""
        x = tf.cast(x, tf.float32)
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        # Root and quotient are exact. TensorFlow's rsqrt, which Grappler makes of both where they meet, is
        # another one for the last few numbers of a tensor.
        deviation = tf.maximum(tf.sqrt(variance + self.epsilon), 0.0)
        return centred / deviation * self.gamma + self.beta


class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention over [B, N, D].

    `causal` hides what comes later in the sequence. With `qk_norm` queries and keys go through a layer norm
    of their own before they meet (Dehghani et al. 2023): scores then cannot grow without bound.
    """

    def __init__(self, size: Transformer, *, causal: bool, dropout: float, qk_norm: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.heads = size.heads
        self.head_dim = size.width // size.heads
        self.causal = causal
        self.rate = dropout
        self.qkv = Dense(3 * size.width, name="qkv")
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

    def call(self, x: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """[B, N, D] to [B, N, D]; with a seed [2] attention weights are dropped."""
        length = x.shape[1]
        queries, keys, values = self._heads(self.qkv(x))
        scores = tf.cast(tf.matmul(queries, keys, transpose_b=True), tf.float32)
        if self.causal:
            visible = tf.linalg.band_part(tf.ones([length, length], tf.bool), -1, 0)
            scores = tf.where(visible, scores, scores.dtype.min)
        weights = tf.cast(_drop(tf.nn.softmax(scores), self.rate, seed), values.dtype)
        mixed = tf.transpose(tf.matmul(weights, values), [0, 2, 1, 3])
        return self.out(tf.reshape(mixed, [-1, *x.shape[1:]]))

    def empty_cache(self, rows: tf.Tensor, places: int) -> Cache:
        """Keys and values of sequences of which nothing is known yet, [B, H, N, D / H] of zeros each."""
        shape = tf.stack([rows, self.heads, places, self.head_dim])
        return tf.zeros(shape, self.compute_dtype), tf.zeros(shape, self.compute_dtype)

    def step(self, x: tf.Tensor, cache: Cache, position: tf.Tensor) -> tuple[tf.Tensor, Cache]:
        """One position of the causal call, the earlier ones taken from the cache.

        Args:
          x: [B, D], the input at `position`.
          cache: filled at the positions before this one, 0 from here on.
          position: int32 scalar.

        Returns:
          The output [B, D] and the cache with this position filled in.
        """
        query, key, value = self._heads(self.qkv.step(x)[:, tf.newaxis], by_row=True)
        keys, values = _fill(cache[0], key, position), _fill(cache[1], value, position)
        scores = tf.cast(tf.matmul(query, keys, transpose_b=True), tf.float32)
        visible = tf.range(keys.shape[2]) <= position
        weights = softmax_by_row(tf.where(visible, scores, scores.dtype.min))
        mixed = tf.matmul(tf.cast(weights, values.dtype), values)
        return self.out.step(tf.reshape(mixed, [-1, x.shape[-1]])), (keys, values)

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
    """Attention and a feed-forward layer, each on a residual path behind its layer norm.

    Dropout acts on attention weights, activations and both residual outputs (section 4). The residual
    path, input and output of the block, is float32 under any policy.
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

    def call(self, x: tf.Tensor, training: bool = False, recompute: bool = False) -> tf.Tensor:
        """[B, N, D] to float32 [B, N, D].

        With `recompute` the input alone is kept for the way back, and all else computed again there
        (gradient checkpointing, Chen et al. 2016): the same gradients, for a third more time.
        """
        # Drawn here, so that what is computed again drops the same.
        seeds = [_of_replica(self.random.next()) if training and self.random else None for _ in range(4)]

        def forward(x: tf.Tensor) -> tf.Tensor:
            attended = self.attention(self.norm_1(x), seed=seeds[0])
            return self._feed_forward(_add(x, _drop(attended, self.rate, seeds[1])), seeds[2:])

        return tf.recompute_grad(forward)(x) if recompute else forward(x)

    def step(self, x: tf.Tensor, cache: Cache, position: tf.Tensor) -> tuple[tf.Tensor, Cache]:
        """One position [B, D] of the causal call; see `SelfAttention.step`."""
        attended, cache = self.attention.step(self.norm_1.step(x), cache, position)
        x = _add(x, attended)
        return _add(x, self.contract.step(self.expand.step(self.norm_2.step(x)))), cache

    def _feed_forward(self, x: tf.Tensor, seeds: Sequence[tf.Tensor | None]) -> tf.Tensor:
        hidden = _drop(self.expand(self.norm_2(x)), self.rate, seeds[0])
        return _add(x, _drop(self.contract(hidden), self.rate, seeds[1]))


def run_blocks(blocks: Sequence[Block], x: tf.Tensor, *, training: bool, recompute: bool) -> tf.Tensor:
    """[B, N, D] through a stack of blocks, float32 [B, N, D]; `recompute` as in `Block.call`."""
    for block in blocks:
        x = block(x, training=training, recompute=recompute)
    return x


def softmax_by_row(x: tf.Tensor) -> tf.Tensor:
    """Softmax over the last axis, each row by itself: to the last bit the same in any batch."""
    # What does not fill a vector register has an exponential with other last bits: nothing may be left over.
    width = x.shape[-1]
    padding = [[0, 0]] * (x.shape.rank - 1) + [[0, -width % REGISTER]]
    x = tf.pad(x, padding, constant_values=x.dtype.min)
    shares = tf.exp(x - tf.reduce_max(x, axis=-1, keepdims=True))
    return (shares / tf.reduce_sum(shares, axis=-1, keepdims=True))[..., :width]


def _fill(cache: tf.Tensor, new: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """Adds [B, H, 1, D / H] at one position of a cache [B, H, N, D / H], which is 0 there."""
    rows, heads = tf.shape(cache)[0], cache.shape[1]
    at = tf.stack(tf.meshgrid(tf.range(rows), tf.range(heads), position, indexing="ij"), axis=-1)
    # The one scatter of TensorFlow's that writes in place on a CPU, where nobody else holds its input:
    # `tensor_scatter_nd_update` copies the whole cache for each position. It has no XLA kernel.
    return tf.raw_ops.ScatterNdNonAliasingAdd(input=cache, indices=at, updates=new)


def _add(path: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    return tf.cast(path, tf.float32) + tf.cast(output, tf.float32)


def _of_replica(seed: tf.Tensor) -> tf.Tensor:
    """A seed [2] of this replica's own: the generators of all replicas stand at the same place."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return seed
    return tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), context.replica_id_in_sync_group)


def _drop(x: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    if seed is None:
        return x
    return tf.nn.experimental.stateless_dropout(x, rate, tf.cast(seed, tf.int32))
