"""The patch discriminator of Isola et al. 2017 (section 3.2.2), as VQGAN uses it.

Every logit judges a patch of its own, 70 pixels wide with three layers: texture, and no composition.
VQGAN normalizes by batch statistics. Here that would make the replicas of a split batch differ from one
device on the whole, and tie the gradient penalty of an image to its neighbours. Group norm sees one image
at a time, as batch norm did for Isola et al., who trained on batches of one.
"""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from trainers.vit_vqgan.discriminator import config

GROUPS = 32


class PatchGAN(keras.Model):
    """Pixels to logits of patches, above 0 for what looks real.

    4x4 convolutions: `layers` that halve the map, one that does not, one to a single channel; leaky ReLUs
    of slope 0.2 between them, group norm in front of all but the first. Maps are padded to keep their
    size, so that patches are centred on a grid 2^layers pixels wide.
    """

    def __init__(self, options: config.PatchGAN, *, image_size: int):
        # Pixels are centred in float32 under any policy; the layers keep theirs.
        super().__init__(name="patchgan", dtype="float32")
        widths = options.widths
        self.convolutions = [_convolution(widths[0], stride=2, use_bias=True)]
        self.convolutions += [_convolution(width, stride=2) for width in widths[1:-1]]
        self.convolutions += [_convolution(widths[-1], stride=1)]
        self.norms = [
            keras.layers.GroupNormalization(math.gcd(GROUPS, width), epsilon=1e-5) for width in widths[1:]
        ]
        self.logits = _convolution(1, stride=1, use_bias=True, dtype="float32")
        self(tf.zeros([1, image_size, image_size, 3]))

    def call(self, pixels: tf.Tensor) -> tf.Tensor:
        """Pixels [B, S, S, 3] in about [0, 1] to logits float32 [B, S / 2^layers, S / 2^layers, 1]."""
        first, *others = self.convolutions
        x = tf.nn.leaky_relu(first(2.0 * pixels - 1.0), 0.2)
        for convolution, norm in zip(others, self.norms, strict=True):
            x = tf.nn.leaky_relu(norm(convolution(x)), 0.2)
        return self.logits(x)


def _convolution(
    channels: int, *, stride: int, use_bias: bool = False, dtype: str | None = None
) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(
        channels,
        4,
        stride,
        padding="same",
        use_bias=use_bias,  # a norm behind it has its own
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
        dtype=dtype,
    )
