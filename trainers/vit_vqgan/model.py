"""ViT-VQGAN: image -> encoder -> quantizer -> decoder -> image (section 3.1, figure 1 left).

A tower is a Vision Transformer (`vit.py`), or VQGAN's convolutions (`cnn.py`) if the configuration says so.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import tensorflow as tf

from serving.export.metadata import CHANNELS
from trainers.training.config import Memory
from trainers.transformer import Dense
from trainers.vit_vqgan import cnn, config, losses, vit
from trainers.vit_vqgan.quantizer import QUANTIZERS, Quantized

# A scale b outside e^-4 .. e^2 means that a pixel was fitted to the last bit or given up.
LOG_SCALE_RANGE = (-4.0, 2.0)


class Distribution(NamedTuple):
    """The decoder's output for every value: location mu (logits) and ln b, [B, S, S, 3] each."""

    mu: tf.Tensor
    log_scale: tf.Tensor

    def pixels(self) -> tf.Tensor:
        """The image at the location, about [0, 1]."""
        return losses.to_pixels(self.mu)


class ViTVQGAN(keras.Model):
    """The tokenizer: S x S images to (S / patch)^2 tokens in raster order, and back."""

    def __init__(self, options: config.Model, *, image_size: int, seed: int, memory: Memory = Memory()):
        # Pixels are centred in float32 under any policy; the layers follow the global policy.
        super().__init__(name="vit_vqgan", dtype="float32")
        self.options = options
        self.tokens = (image_size // options.patch_size) ** 2
        self.encoder = _encoder(options, self.tokens, memory)
        self.factorize = Dense(options.codebook.dim, dtype="float32", name="factorize")
        self.quantizer = QUANTIZERS[options.codebook.kind](options.codebook, seed=seed, name="quantizer")
        self.decoder = _decoder(options, self.tokens, memory)
        self(tf.zeros([1, image_size, image_size, CHANNELS]))

    def call(self, pixels: tf.Tensor, training: bool = False) -> tuple[Distribution, Quantized]:
        """Pixels float32 [B, S, S, 3] in [0, 1] to their reconstruction and the quantizer's output."""
        quantized = self.quantizer(self._latents(pixels), training=training)
        return self._distribution(quantized.codes), quantized

    def encode(self, pixels: tf.Tensor) -> tf.Tensor:
        """Pixels float32 [B, S, S, 3] in [0, 1] to tokens int32 [B, N], raster order."""
        return self.quantizer(self._latents(pixels)).tokens

    def decode(self, tokens: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Tokens int32 [B, N] to pixels in [0, 1], mu and ln b, float32 [B, S, S, 3] each."""
        distribution = self._distribution(self.quantizer.lookup(tokens))
        return tf.clip_by_value(distribution.pixels(), 0.0, 1.0), *distribution

    def _latents(self, pixels: tf.Tensor) -> tf.Tensor:
        # Centred on 0, as the layers' initial weights expect.
        return self.factorize(self.encoder(2.0 * pixels - 1.0))

    def _distribution(self, codes: tf.Tensor) -> Distribution:
        output = self.decoder(codes)
        mu = output[..., :CHANNELS]
        if self.options.output_channels == CHANNELS:
            return Distribution(mu, tf.zeros_like(mu))
        return Distribution(mu, tf.clip_by_value(output[..., CHANNELS:], *LOG_SCALE_RANGE))


def _encoder(options: config.Model, tokens: int, memory: Memory) -> keras.layers.Layer:
    """[B, S, S, 3] in [-1, 1] to [B, N, *]."""
    if isinstance(options.encoder, config.Convolutional):
        return cnn.Encoder(options.encoder, units=options.encoder.widths[-1], name="encoder")
    return vit.Encoder(
        options.encoder,
        patch_size=options.patch_size,
        tokens=tokens,
        memory=memory,
        name="encoder",
    )


def _decoder(options: config.Model, tokens: int, memory: Memory) -> keras.layers.Layer:
    """Codes [B, N, dim] to [B, S, S, output channels]."""
    channels, code_norm = options.output_channels, options.codebook.code_norm
    if isinstance(options.decoder, config.Convolutional):
        return cnn.Decoder(
            options.decoder,
            channels_out=channels,
            side=math.isqrt(tokens),
            input_scale=code_norm,
            name="decoder",
        )
    return vit.Decoder(
        options.decoder,
        patch_size=options.patch_size,
        channels=channels,
        tokens=tokens,
        input_scale=code_norm,
        memory=memory,
        name="decoder",
    )
