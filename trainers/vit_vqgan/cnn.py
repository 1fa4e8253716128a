"""VQGAN's convolutional encoder and decoder (Esser et al. 2021, arXiv:2012.09841, Table 7).

Residual blocks at every resolution, each followed by self-attention at the lowest; in the middle two
residual blocks with attention between them; group norm and swish throughout.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from trainers.training.config import Transformer
from trainers.transformer import SelfAttention
from trainers.vit_vqgan.config import Convolutional

MAX_GROUPS = 32


class Encoder(keras.layers.Layer):
    """Image [B, S, S, 3], pixels in [-1, 1], to latents [B, (S / f)^2, units] in raster order.

    f is `options.downsampling`; S must be a multiple of it.
    """

    def __init__(self, options: Convolutional, *, units: int, **kwargs):
        super().__init__(**kwargs)
        *finer, lowest = options.widths
        self.stages = [_first(options.widths[0], input_scale=3**0.5)]
        for width in finer:
            self.stages += [Residual(width) for _ in range(options.residual_blocks)]
            self.stages += [_convolution(width, stride=2)]
        for _ in range(options.residual_blocks):
            self.stages += [Residual(lowest), Attention()]
        self.stages += [*_middle(lowest), NormSwish(), _convolution(units, dtype="float32")]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, S, S, 3] to [B, (S / f)^2, units]."""
        for stage in self.stages:
            x = stage(x)
        return tf.reshape(x, [-1, x.shape[1] * x.shape[2], x.shape[3]])


class Decoder(keras.layers.Layer):
    """Codes [B, side^2, dim] in raster order to an image [B, f side, f side, channels_out].

    f is `options.downsampling`, `side` the side of the token grid. `input_scale` is the norm of a code;
    the first convolution is initialized to scale codes to unit variance.
    """

    def __init__(self, options: Convolutional, *, channels_out: int, side: int, input_scale: float, **kwargs):
        super().__init__(**kwargs)
        self.side = side
        *finer, lowest = options.widths
        self.stages = [_first(lowest, input_scale=input_scale), *_middle(lowest)]
        for _ in range(options.residual_blocks + 1):
            self.stages += [Residual(lowest), Attention()]
        for coarser, width in zip(options.widths[:0:-1], reversed(finer), strict=True):
            self.stages += [keras.layers.UpSampling2D(), _convolution(coarser)]
            self.stages += [Residual(width) for _ in range(options.residual_blocks + 1)]
        self.stages += [NormSwish(), _convolution(channels_out, dtype="float32")]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, side^2, dim] to [B, f side, f side, channels_out]."""
        x = tf.reshape(x, [-1, self.side, self.side, x.shape[-1]])
        for stage in self.stages:
            x = stage(x)
        return x


class Residual(keras.layers.Layer):
    """Norm, swish and convolution, twice, and a shortcut: a 1x1 convolution if the width changes."""

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.branch = [NormSwish(), _convolution(filters), NormSwish(), _convolution(filters)]

    def build(self, shape):
        """Build every layer for inputs of `shape` [B, H, W, C]."""
        self.shortcut = _convolution(self.filters, kernel=1) if shape[-1] != self.filters else None
        hidden = (*shape[:-1], self.filters)
        for layer, seen in zip(self.branch, (shape, shape, hidden, hidden), strict=True):
            layer.build(seen)
        if self.shortcut is not None:
            self.shortcut.build(shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] to [B, H, W, filters]."""
        y = x
        for layer in self.branch:
            y = layer(y)
        return y + (x if self.shortcut is None else self.shortcut(x))


class Attention(keras.layers.Layer):
    """Residual single-head self-attention over all positions of [B, H, W, C], after a group norm."""

    def build(self, shape):
        """Build both layers for inputs of `shape` [B, H, W, C]."""
        batch, height, width, channels = shape
        self.norm = _group_norm(channels)
        self.norm.build(shape)
        one_head = Transformer(blocks=1, heads=1, width=channels, hidden=channels)
        self.attention = SelfAttention(one_head, causal=False, dropout=0.0)
        self.attention.build((batch, height * width, channels))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] to the same."""
        places = tf.reshape(self.norm(x), [-1, x.shape[1] * x.shape[2], x.shape[3]])
        return x + tf.reshape(self.attention(places), [-1, *x.shape[1:]])


class NormSwish(keras.layers.Layer):
    """Group norm and swish, x sigmoid(x)."""

    def build(self, shape):
        """Build the norm for inputs of `shape` [B, H, W, C]."""
        self.norm = _group_norm(shape[-1])
        self.norm.build(shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] to the same."""
        return tf.nn.silu(self.norm(x))


def _group_norm(channels: int) -> keras.layers.GroupNormalization:
    """Group norm in the most groups, up to 32, that divide the channels; float32 under any policy."""
    groups = max(count for count in range(1, MAX_GROUPS + 1) if channels % count == 0)
    return keras.layers.GroupNormalization(groups, epsilon=1e-6)


def _convolution(
    filters: int, *, kernel: int = 3, stride: int = 1, dtype: str | None = None
) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(filters, kernel, stride, padding="same", dtype=dtype)


def _first(filters: int, *, input_scale: float) -> keras.layers.Conv2D:
    """Convolution initialized to scale inputs, vectors of norm `input_scale`, to unit variance."""
    # Each of the nine taps contributes a variance of input_scale^2 stddev^2.
    initializer = keras.initializers.RandomNormal(stddev=1.0 / (3.0 * input_scale))
    return keras.layers.Conv2D(filters, 3, padding="same", kernel_initializer=initializer)


def _middle(width: int) -> list[keras.layers.Layer]:
    return [Residual(width), Attention(), Residual(width)]
