"""What a discriminator costs (`trainers.accounting` says what is counted)."""

from __future__ import annotations

from trainers.accounting import Cost, convolution, kept, norm, total
from trainers.vit_vqgan.discriminator import config

CHANNELS = 3


def discriminator(options: config.Discriminator, *, image_size: int) -> Cost:
    """A discriminator on one image of S x S pixels."""
    if isinstance(options, config.StyleGAN2):
        return _stylegan2(options, image_size)
    return _patchgan(options, image_size)


def _stylegan2(options: config.StyleGAN2, image_size: int) -> Cost:
    """From RGB, residual blocks that halve, a last convolution and a dense layer.

    Blurs are not counted: as matrix products they are a quarter as many FLOPs again at 256 pixels, as the
    additions that they stand for next to none.
    """
    sides = options.resolutions(image_size)
    widths = [options.channels(side) for side in sides]
    final, last = sides[-1], widths[-1]
    costs = [_activated(CHANNELS, widths[0], kernel=1, side=image_size)]
    for inputs, outputs, side in zip(widths, widths[1:], sides[1:], strict=False):
        costs += [
            _activated(inputs, inputs, kernel=3, side=2 * side),
            _activated(inputs, outputs, kernel=3, side=side, stride=2),
            convolution(inputs, outputs, kernel=1, side=side, bias=False),
        ]
    return total(
        [
            *costs,
            _activated(last + bool(options.minibatch_stddev), last, kernel=3, side=final),
            _activated(last * final**2, last, kernel=1, side=1),
            convolution(last, 1, kernel=1, side=1),
        ]
    )


def _patchgan(options: config.PatchGAN, image_size: int) -> Cost:
    """4x4 convolutions that halve, one that does not, one to a single channel; norms behind the inner."""
    widths = options.widths
    strides = [2] * options.layers + [1]
    side, inputs, costs = image_size, CHANNELS, []
    for layer, (width, stride) in enumerate(zip(widths, strides, strict=True)):
        side //= stride
        costs += [
            convolution(inputs, width, kernel=4, side=side, stride=stride, bias=layer == 0),
            norm(width, rows=side**2, float32=False) if layer else kept(0),
            kept(width * side**2),
        ]
        inputs = width
    return total([*costs, convolution(inputs, 1, kernel=4, side=side)])


def _activated(inputs: int, filters: int, *, kernel: int, side: int, stride: int = 1) -> Cost:
    """A convolution with a bias and a leaky ReLU behind it."""
    return total(
        [convolution(inputs, filters, kernel=kernel, side=side, stride=stride), kept(filters * side**2)]
    )
