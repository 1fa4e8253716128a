"""The Transformer block of ViT-VQGAN's towers and VIM (Table 2).

Pre-norm, GELU inside, no layer norm after the last block (each model adds its own).

Under Keras' `mixed_bfloat16` policy products are bfloat16, and three things stay float32: layer norms,
softmax, and the residual stream. A block adds two terms to the residual stream; in bfloat16, with 8 bits,
each addition would round away what is smaller than a 256th of the sum. float32 costs two elementwise
additions a block.

How the operations are written decides what TensorFlow's graph fuses on a CPU: see docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from trainers.attention import attend, attend_blockwise, dropout
from trainers.training.config import Memory, Transformer


class Kernels(NamedTuple):
    """The kernels of a block's four products, in the precision that they are read in for sampling."""

    qkv: tf.Tensor
    out: tf.Tensor
    expand: tf.Tensor
    contract: tf.Tensor


class Dense(keras.layers.Dense):
    """Keras' dense layer with all leading dimensions flattened.

    On [B, N, D] Keras multiplies batch by batch, and the kernel's gradient becomes B products and their sum.
    As one product, self-attention over 16 tokens of width 128 trains 1.6 times as fast.
    """

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, ..., D] to [B, ..., units]."""
        flat = self._affine(tf.reshape(x, [-1, x.shape[-1]]), self.kernel, self.learned_bias())
        return tf.reshape(flat, [-1, *x.shape[1:-1], self.units])

    def of_rows(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """[M, D] to [M, units] by this kernel, which may have another precision than the layer's own."""
        return self._affine(tf.cast(x, kernel.dtype), kernel, tf.cast(self.bias, self.compute_dtype))

    def _affine(self, x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        product = tf.cast(tf.matmul(x, kernel), self.compute_dtype)
        # In this form, with the bias' shape known, bias and GELU are fused into the product.
        return self.activation(tf.nn.bias_add(product, tf.ensure_shape(bias, [self.units])))

    def learned_bias(self) -> tf.Tensor:
        """The bias, as far as gradients reach it."""
        return self.bias


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

    def by_row(self, x: tf.Tensor) -> tf.Tensor:
        """The same, each row by itself: bit-identical in any batch."""
        x = tf.cast(x, tf.float32)
        mean = tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axis=-1, keepdims=True)
        # Root and quotient are exact. If they meet, Grappler fuses them into rsqrt, whose last bits differ
        # for the last few numbers of a tensor; the maximum keeps them apart.
        deviation = tf.maximum(tf.sqrt(variance + self.epsilon), 0.0)
        return (x - mean) * (1.0 / deviation) * self.gamma + self.beta


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

    def projected(self, x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """[M, D] to queries (scaled), keys and values [M, H, d], each row by itself."""
        split = tf.split(self.qkv.of_rows(x, kernel), 3, axis=-1)
        queries, keys, values = (tf.reshape(part, [-1, self.heads, self.head_dim]) for part in split)
        if self.query_norm and self.key_norm:
            queries = tf.cast(self.query_norm.by_row(queries), values.dtype)
            keys = tf.cast(self.key_norm.by_row(keys), values.dtype)
        return queries * self.head_dim**-0.5, keys, values

    def _heads(self, qkv: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """[B, N, 3 D] to queries (scaled), keys and values, each [B, H, N, D / H]."""
        split = tf.reshape(qkv, [-1, qkv.shape[1], 3, self.heads, self.head_dim])
        queries, keys, values = tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4]))
        if self.query_norm and self.key_norm:
            queries = tf.cast(self.query_norm(queries), values.dtype)
            keys = tf.cast(self.key_norm(keys), values.dtype)
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

    def decode(
        self,
        x: tf.Tensor,
        kernels: Kernels,
        attend: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor],
    ) -> tf.Tensor:
        """Single positions of the causal call, [M, D] to float32 [M, D].

        In products of a fixed number of rows, each row is the same to the last bit whatever the others are.

        Args:
          x: the block's inputs.
          kernels: those of its products.
          attend: queries (scaled), keys and values [M, H, d] to what the queries attend to, [M, H, d].
        """
        attention = self.attention
        queries, keys, values = attention.projected(self.norm_1.by_row(x), kernels.qkv)
        mixed = tf.reshape(attend(queries, keys, values), [-1, x.shape[-1]])
        x = _add(x, attention.out.of_rows(mixed, kernels.out))
        hidden = self.expand.of_rows(self.norm_2.by_row(x), kernels.expand)
        return _add(x, self.contract.of_rows(hidden, kernels.contract))

    def kernels(self, dtype: tf.DType) -> Kernels:
        """The kernels of the block's products in a precision."""
        layers = (self.attention.qkv, self.attention.out, self.expand, self.contract)
        return Kernels(*(tf.cast(layer.kernel, dtype) for layer in layers))

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
