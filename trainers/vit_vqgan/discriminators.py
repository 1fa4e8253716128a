"""Discriminators: StyleGAN2's (Karras et al. 2020) and PatchGAN (Isola et al. 2017).

`DISCRIMINATORS` maps `adversary.discriminator.network` to its class (docs/extending.md).

StyleGAN2 (section 4.1 and appendix B of its paper) makes two choices throughout. Weights are N(0, 1) and are
scaled at use (equalized learning rate: Adam's steps then have the same relative size in every layer). Feature
maps are blurred before they are downsampled, so that no feature depends on the position of the pixel grid.

A PatchGAN logit judges one patch, 70 pixels wide with three layers, so texture and not composition. VQGAN
uses batch norm. Here that would make the replicas of a split batch differ from one device, and the gradient
penalty of an image depend on the rest of its batch. Group norm sees one image at a time, as batch norm did
for Isola et al., who trained with a batch size of 1.
"""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

from serving.export.metadata import CHANNELS
from trainers.vit_vqgan import config

# Compensates for the variance lost in the leaky ReLU.
GAIN = math.sqrt(2.0)
BLUR = (0.125, 0.375, 0.375, 0.125)
SLOPE = 0.2  # of leaky ReLUs
# Group norm's groups in PatchGAN.
GROUPS = 32


def build_discriminator(options: config.StyleGAN2 | config.PatchGAN, *, image_size: int) -> keras.Model:
    """Build the discriminator that `options` describe, with all its weights.

    It maps pixels float32 [B, S, S, 3] in about [0, 1] to logits float32: one per image, [B, 1],
    for StyleGAN2, one per patch, [B, h, w, 1], for PatchGAN.

    Raises:
      ValueError: the network does not accept images of this size.
    """
    options.check_image_size(image_size)
    return DISCRIMINATORS[options.network](options, image_size=image_size)


class Convolution(keras.layers.Layer):
    """A convolution with equalized learning rate, and a leaky ReLU of slope 0.2 if `activated`.

    The weights, N(0, 1), are divided by sqrt(fan_in) and multiplied by `gain`, so that outputs start with
    `gain` times the inputs' standard deviation. The gain is applied before the leaky ReLU, which is
    homogeneous, as part of the weights: this costs no pass over the feature maps.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        padding: str = "SAME",
        gain: float = GAIN,
        use_bias: bool = True,
        activated: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(size, size, inputs, outputs),
            initializer=keras.initializers.RandomNormal(stddev=1.0),
        )
        self.bias = self.add_weight(name="bias", shape=(outputs,), initializer="zeros") if use_bias else None
        self.stride, self.padding, self.activated = stride, padding, activated
        self.gain = gain
        self.scale = gain / math.sqrt(size * size * inputs)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, inputs] to [B, H', W', outputs]."""
        kernel = tf.cast(self.kernel * self.scale, x.dtype)
        x = tf.nn.conv2d(x, kernel, self.stride, self.padding)
        if self.bias is not None:
            x += tf.cast(self.bias * self.gain, x.dtype)
        return tf.nn.leaky_relu(x, SLOPE) if self.activated else x


class ResidualBlock(keras.layers.Layer):
    """[B, S, S, inputs] to [B, S / 2, S / 2, outputs]: two convolutions and a linear skip.

    The gains of both branches include the division of their sum by sqrt(2), which keeps the variance.
    """

    def __init__(self, inputs: int, outputs: int, **kwargs):
        super().__init__(**kwargs)
        self.convolution = Convolution(inputs, inputs, 3)
        self.down = Convolution(inputs, outputs, 3, stride=2, padding="VALID", gain=GAIN / math.sqrt(2.0))
        self.skip = Convolution(
            inputs, outputs, 1, gain=1.0 / math.sqrt(2.0), use_bias=False, activated=False
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, S, S, inputs] to [B, S / 2, S / 2, outputs]."""
        return self.down(blur(self.convolution(x), margin=2)) + self.skip(blur(x, margin=1, stride=2))


class StyleGAN2(keras.Model):
    """Pixels to one logit per image, positive if the image looks real."""

    def __init__(self, options: config.StyleGAN2, *, image_size: int):
        # Pixels are centred in float32 under any policy; the layers follow the global policy.
        super().__init__(name="stylegan2", dtype="float32")
        self.group = options.minibatch_stddev
        sizes = options.resolutions(image_size)
        widths = [options.channels(size) for size in sizes]
        self.from_rgb = Convolution(CHANNELS, widths[0], 1, name="from_rgb")
        self.blocks = [
            ResidualBlock(inputs, outputs, name=f"block_{size}")
            for size, inputs, outputs in zip(sizes, widths, widths[1:], strict=False)
        ]
        self.convolution = Convolution(widths[-1] + bool(self.group), widths[-1], 3, name="convolution")
        # A convolution as large as the map is a dense layer.
        self.hidden = Convolution(widths[-1], widths[-1], sizes[-1], padding="VALID", name="hidden")
        self.logit = Convolution(widths[-1], 1, 1, gain=1.0, activated=False, dtype="float32", name="logit")
        self(tf.zeros([1, image_size, image_size, CHANNELS]))

    def call(self, pixels: tf.Tensor) -> tf.Tensor:
        """Pixels [B, S, S, 3] in about [0, 1] to logits float32 [B, 1]."""
        x = self.from_rgb(2.0 * pixels - 1.0)
        for block in self.blocks:
            x = block(x)
        if self.group:
            x = minibatch_stddev(x, self.group)
        return tf.reshape(self.logit(self.hidden(self.convolution(x))), [-1, 1])


def blur(x: tf.Tensor, *, margin: int, stride: int = 1) -> tf.Tensor:
    """Blur x [B, S, S, C] with the binomial filter [1, 3, 3, 1] / 8 along both axes.

    x is first padded with `margin` zeros on each side; of the S + 2 margin - 3 valid positions every
    `stride`-th is computed.

    Rows and columns are each multiplied by a banded matrix, so that gradients of any order are matrix
    products too. On a CPU a depthwise convolution takes as long up to 64 pixels and less beyond, but 20 to
    50 times as long under XLA; sums of shifted slices take 5 times as long without XLA.
    """
    _, height, width, channels = x.shape
    down = tf.constant(_band(height, margin, stride), x.dtype)
    across = tf.constant(_band(width, margin, stride), x.dtype)
    rows = tf.matmul(down, tf.reshape(x, [-1, height, width * channels]))
    return tf.matmul(across, tf.reshape(rows, [-1, down.shape[0], width, channels]))


def _band(size: int, margin: int, stride: int) -> np.ndarray:
    """Return the filter as a matrix [positions, size]; each row holds the taps that meet inputs."""
    padded = size + 2 * margin
    taps = np.sum([tap * np.eye(padded, k=offset) for offset, tap in enumerate(BLUR)], axis=0)
    return taps[: padded - len(BLUR) + 1 : stride, margin : margin + size]


def minibatch_stddev(x: tf.Tensor, group: int) -> tf.Tensor:
    """Append the minibatch standard deviation to x [B, S, S, C] as a channel: [B, S, S, C + 1].

    The channel is constant over a group of `group` images: their standard deviation, averaged over
    positions and channels (Karras et al. 2018, section 3). It exposes reconstructions that are all alike.
    Groups are consecutive images of the batch, so that replicas see the same groups as one device; a batch
    smaller than a group is one group.

    Raises:
      ValueError: the batch size is not a multiple of the group size.
    """
    batch, height, width, channels = x.shape
    group = min(group, batch)
    if batch % group:
        raise ValueError(f"batch size must be a multiple of minibatch_stddev {group}, got {batch}")
    groups = tf.reshape(tf.cast(x, tf.float32), [batch // group, group, height, width, channels])
    # The square root has no finite gradient at 0.
    deviation = tf.sqrt(tf.math.reduce_variance(groups, axis=1, keepdims=True) + 1e-8)
    deviation = tf.reduce_mean(deviation, axis=[2, 3, 4], keepdims=True)
    deviation = tf.broadcast_to(deviation, [batch // group, group, height, width, 1])
    deviation = tf.reshape(deviation, [batch, height, width, 1])
    return tf.concat([x, tf.cast(deviation, x.dtype)], axis=-1)


class PatchGAN(keras.Model):
    """Pixels to one logit per patch, positive if the patch looks real.

    4x4 convolutions: `layers` with stride 2, one with stride 1, and one to a single channel; leaky ReLUs of
    slope 0.2 between them, each but the first after a group norm. Padding keeps the size of the maps, so
    patches are centred on a grid with a spacing of 2^layers pixels.
    """

    def __init__(self, options: config.PatchGAN, *, image_size: int):
        # Pixels are centred in float32 under any policy; the layers follow the global policy.
        super().__init__(name="patchgan", dtype="float32")
        widths = options.widths
        self.convolutions = [_patch_convolution(widths[0], stride=2, use_bias=True)]
        self.convolutions += [_patch_convolution(width, stride=2) for width in widths[1:-1]]
        self.convolutions += [_patch_convolution(widths[-1], stride=1)]
        self.norms = [
            keras.layers.GroupNormalization(math.gcd(GROUPS, width), epsilon=1e-5) for width in widths[1:]
        ]
        self.logits = _patch_convolution(1, stride=1, use_bias=True, dtype="float32")
        self(tf.zeros([1, image_size, image_size, CHANNELS]))

    def call(self, pixels: tf.Tensor) -> tf.Tensor:
        """Pixels [B, S, S, 3] in about [0, 1] to logits float32 [B, S / 2^layers, S / 2^layers, 1]."""
        first, *others = self.convolutions
        x = tf.nn.leaky_relu(first(2.0 * pixels - 1.0), SLOPE)
        for convolution, norm in zip(others, self.norms, strict=True):
            x = tf.nn.leaky_relu(norm(convolution(x)), SLOPE)
        return self.logits(x)


def _patch_convolution(
    channels: int, *, stride: int, use_bias: bool = False, dtype: str | None = None
) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(
        channels,
        4,
        stride,
        padding="same",
        use_bias=use_bias,  # a norm after it has its own
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
        dtype=dtype,
    )


DISCRIMINATORS: dict[str, type[keras.Model]] = {"stylegan2": StyleGAN2, "patchgan": PatchGAN}
