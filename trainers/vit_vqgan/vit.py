"""Encoder and decoder as Vision Transformers (section 3.1, Table 2)."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from serving.export.metadata import CHANNELS
from trainers.training.config import Memory, Transformer
from trainers.transformer import Block, Dense, LayerNorm, run_blocks


class Tower(keras.layers.Layer):
    """[B, N, *] to [B, N, units]: projection, positions, blocks, norm, head.

    The head is two layers with a tanh between them and no activation after (section 3.1). `input_scale` is
    the norm of an input vector; the first projection scales it to unit variance.
    """

    def __init__(
        self,
        size: Transformer,
        *,
        tokens: int,
        units: int,
        input_scale: float,
        memory: Memory,
        **kwargs,
    ):
        # The residual stream that starts here is float32 (trainers.transformer).
        super().__init__(autocast=False, **kwargs)
        # Not Glorot's initializer: a code is a unit vector, and Glorot's projection of it has a variance of
        # 0.01. The blocks then drown it, and the encoder's outputs collapse onto a circle: digits stopped at
        # 17.2 dB with every code in use, and reached 22.2 dB in the same steps with this one.
        self.project = Dense(
            size.width,
            kernel_initializer=keras.initializers.RandomNormal(stddev=1.0 / input_scale),
            name="project",
        )
        self.positions = self.add_weight(
            name="positions", shape=(tokens, size.width), initializer=keras.initializers.RandomNormal(0.02)
        )
        self.blocks = [Block(size, name=f"block_{index + 1}") for index in range(size.blocks)]
        self.norm = LayerNorm(name="norm")
        self.head_hidden = Dense(size.hidden, activation="tanh", name="head_hidden")
        # float32 under any policy: bfloat16 would round what is quantized next, or compared as mu and ln b.
        self.head_output = Dense(units, dtype="float32", name="head_output")
        self._memory = memory

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B, N, *] to [B, N, units]."""
        x = tf.cast(self.project(x), tf.float32) + self.positions
        x = run_blocks(self.blocks, x, training=training, memory=self._memory)
        return self.head_output(self.head_hidden(self.norm(x)))


class Encoder(keras.layers.Layer):
    """Images to one vector a patch, as wide as the Transformer."""

    def __init__(self, size: Transformer, *, patch_size: int, tokens: int, memory: Memory, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        values = CHANNELS * patch_size**2
        self.tower = Tower(
            size,
            tokens=tokens,
            units=size.width,
            input_scale=math.sqrt(values),
            memory=memory,
            name="tower",
        )

    def call(self, pixels: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Pixels [B, S, S, 3] in [-1, 1] to [B, (S / patch)^2, width], raster order."""
        patches = tf.nn.space_to_depth(pixels, self.patch_size)
        sequence = tf.reshape(patches, [-1, patches.shape[1] * patches.shape[2], patches.shape[3]])
        return self.tower(sequence, training=training)


class Decoder(keras.layers.Layer):
    """One vector a patch to images."""

    def __init__(
        self,
        size: Transformer,
        *,
        patch_size: int,
        channels: int,
        tokens: int,
        input_scale: float,
        memory: Memory,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.side = math.isqrt(tokens)
        self.tower = Tower(
            size,
            tokens=tokens,
            units=patch_size**2 * channels,
            input_scale=input_scale,
            memory=memory,
            name="tower",
        )

    def call(self, codes: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B, N, dim], raster order, to [B, S, S, channels]."""
        patches = self.tower(codes, training=training)
        grid = tf.reshape(patches, [-1, self.side, self.side, patches.shape[-1]])
        return tf.nn.depth_to_space(grid, self.patch_size)
