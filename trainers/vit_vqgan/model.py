"""ViT-VQGAN: image -> ViT encoder -> codebook -> ViT decoder -> image (section 3.1, figure 1 left)."""

from __future__ import annotations

from typing import NamedTuple

import keras
import tensorflow as tf

from trainers.training.config import Transformer
from trainers.transformer import Block, Dense
from trainers.vit_vqgan import config, losses
from trainers.vit_vqgan.codebook import Codebook, Quantized

CHANNELS = 3
# A scale b outside e^-4 .. e^2 means that a pixel was fitted to the last bit or given up.
LOG_SCALE_RANGE = (-4.0, 2.0)


class Distribution(NamedTuple):
    """The decoder's output for every sub-pixel: location mu (logits) and ln b, [B, S, S, 3] each."""

    mu: tf.Tensor
    log_scale: tf.Tensor

    def pixels(self) -> tf.Tensor:
        """The image at the location, about [0, 1]."""
        return losses.to_pixels(self.mu)


class Tower(keras.layers.Layer):
    """Vision Transformer from [B, N, *] to [B, N, units]: projection, positions, blocks, norm, head.

    The head is two layers with one tanh in the middle and no activation after (section 3.1).
    `input_scale` is the norm of an input vector; the first projection brings it to unit variance.
    """

    def __init__(self, size: Transformer, *, tokens: int, units: int, input_scale: float, **kwargs):
        super().__init__(**kwargs)
        # Not Glorot's: a code is a unit vector, of which Glorot's projection leaves a variance of 0.01.
        # The blocks then drown it, and the encoder's outputs collapse onto a circle: digits stopped at
        # 17.2 dB with every code in use, and reached 22.2 dB in the same steps with this.
        self.project = Dense(
            size.width,
            kernel_initializer=keras.initializers.RandomNormal(stddev=1.0 / input_scale),
            name="project",
        )
        self.positions = self.add_weight(
            name="positions", shape=(tokens, size.width), initializer=keras.initializers.RandomNormal(0.02)
        )
        self.blocks = [Block(size, name=f"block_{index + 1}") for index in range(size.blocks)]
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")
        self.head_hidden = Dense(size.hidden, activation="tanh", name="head_hidden")
        self.head_output = Dense(units, name="head_output")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, N, *] to [B, N, units]."""
        x = self.project(x) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head_output(self.head_hidden(self.norm(x)))


class ViTVQGAN(keras.Model):
    """The tokenizer: S x S images to (S / patch)^2 tokens in raster order, and back."""

    def __init__(self, options: config.Model, *, image_size: int, seed: int):
        super().__init__(name="vit_vqgan")
        self.options = options
        self.side = image_size // options.patch_size
        self.tokens = self.side**2
        patch_values = CHANNELS * options.patch_size**2
        self.encoder = Tower(
            options.encoder,
            tokens=self.tokens,
            units=options.encoder.width,
            input_scale=patch_values**0.5,
            name="encoder",
        )
        self.factorize = Dense(options.codebook.dim, name="factorize")
        self.codebook = Codebook(options.codebook, seed=seed, name="codebook")
        self.decoder = Tower(
            options.decoder,
            tokens=self.tokens,
            units=options.patch_size**2 * options.output_channels,
            input_scale=1.0 if options.codebook.l2_normalized else options.codebook.dim**0.5,
            name="decoder",
        )
        self(tf.zeros([1, image_size, image_size, CHANNELS]))

    def call(self, pixels: tf.Tensor, training: bool = False) -> tuple[Distribution, Quantized]:
        """Pixels float32 [B, S, S, 3] in [0, 1] to their reconstruction and what the codebook said."""
        quantized = self.codebook(self._latents(pixels), training=training)
        return self._distribution(quantized.codes), quantized

    def encode(self, pixels: tf.Tensor) -> tf.Tensor:
        """Pixels float32 [B, S, S, 3] in [0, 1] to tokens int32 [B, N], raster order."""
        return self.codebook(self._latents(pixels)).tokens

    def decode(self, tokens: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Tokens int32 [B, N] to pixels float32 [B, S, S, 3] in [0, 1] and the ln b beside them."""
        distribution = self._distribution(self.codebook.lookup(tokens))
        return tf.clip_by_value(distribution.pixels(), 0.0, 1.0), distribution.log_scale

    def _latents(self, pixels: tf.Tensor) -> tf.Tensor:
        # Patches are centred on 0, as the layers' initial weights expect.
        patches = tf.nn.space_to_depth(2.0 * pixels - 1.0, self.options.patch_size)
        patches = tf.reshape(patches, [-1, self.tokens, CHANNELS * self.options.patch_size**2])
        return self.factorize(self.encoder(patches))

    def _distribution(self, codes: tf.Tensor) -> Distribution:
        channels, side = self.options.output_channels, self.side
        patches = tf.reshape(self.decoder(codes), [-1, side, side, self.options.patch_size**2 * channels])
        output = tf.cast(tf.nn.depth_to_space(patches, self.options.patch_size), tf.float32)
        mu = output[..., :CHANNELS]
        if channels == CHANNELS:
            return Distribution(mu, tf.zeros_like(mu))
        return Distribution(mu, tf.clip_by_value(output[..., CHANNELS:], *LOG_SCALE_RANGE))
