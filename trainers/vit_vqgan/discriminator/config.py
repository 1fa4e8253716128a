"""Configuration of the adversary: which discriminator looks at the pictures, and how wide it is."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import pydantic
from pydantic import Field, PositiveInt

from trainers.training.config import Count, Positive, Section

STYLEGAN2_IMAGE_SIZES = (16, 32, 64, 128, 256, 512)
# StyleGAN2 halves images until they are this small.
STYLEGAN2_FINAL_SIZE = 4
# PatchGAN's channels double from layer to layer, but not beyond this multiple of the first.
PATCHGAN_MAX_MULTIPLE = 8


class StyleGAN2(Section):
    """The residual discriminator of StyleGAN2 (Karras et al. 2020), the paper's adversary (section 3.3).

    At a resolution of r pixels it has min(`max_channels`, `channel_multiplier` * 16384 / r) channels;
    a multiplier of 2 gives StyleGAN2's configuration F: 512 channels up to 64 pixels, 128 at 256 pixels.
    `minibatch_stddev` is the number of images whose spread a group sees as one more channel; 0 leaves
    it out.
    """

    network: Literal["stylegan2"] = "stylegan2"
    channel_multiplier: Positive = 1.0
    max_channels: PositiveInt = 512
    minibatch_stddev: Count = 0

    @pydantic.field_validator("minibatch_stddev")
    @classmethod
    def _one_image_has_no_spread(cls, group: int) -> int:
        if group == 1:
            raise ValueError("one image has no spread; allowed are 0 and 2 or more")
        return group

    def check_image_size(self, image_size: int) -> None:
        """Raises `ValueError` for images that are not a power of two, 16 to 512 pixels, wide."""
        if image_size not in STYLEGAN2_IMAGE_SIZES:
            allowed = ", ".join(map(str, STYLEGAN2_IMAGE_SIZES))
            raise ValueError(
                f"image size {image_size} does not fit the discriminator stylegan2, allowed are {allowed}"
            )

    def resolutions(self, image_size: int) -> tuple[int, ...]:
        """The sides of its feature maps, from the image's on, each half of the one before."""
        return tuple(
            image_size >> level for level in range(int(math.log2(image_size // STYLEGAN2_FINAL_SIZE)) + 1)
        )

    def channels(self, resolution: int) -> int:
        """The channels of feature maps of `resolution` x `resolution`, at least 1."""
        return min(self.max_channels, max(1, round(self.channel_multiplier * 16384 / resolution)))


class PatchGAN(Section):
    """The patch discriminator of Isola et al. 2017, as VQGAN uses it: the ablation's adversary (Table 4).

    The first of `layers` strided convolutions has `channels` channels, and each later one twice as many,
    up to eight times.
    """

    network: Literal["patchgan"] = "patchgan"
    channels: PositiveInt = 64
    layers: PositiveInt = 3

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of its convolutions: the strided ones, and the one behind them."""
        return tuple(self.channels * min(2**layer, PATCHGAN_MAX_MULTIPLE) for layer in range(self.layers + 1))

    def check_image_size(self, image_size: int) -> None:
        """Raises `ValueError` for images that the strided convolutions do not halve evenly."""
        if image_size % 2**self.layers:
            raise ValueError(
                f"image size {image_size} does not fit the discriminator patchgan, "
                f"allowed are multiples of {2**self.layers} (2^layers)"
            )


Discriminator = Annotated[StyleGAN2 | PatchGAN, Field(discriminator="network")]
