"""What a convolutional tower costs (`trainers.accounting` says what is counted)."""

from __future__ import annotations

from trainers.accounting import Cost, attention, convolution, kept, norm, total
from trainers.vit_vqgan.convolutional.config import Convolutional

CHANNELS = 3


def encoder(options: Convolutional, *, units: int, image_size: int) -> Cost:
    """A `towers.Encoder` on images of S x S pixels."""
    *finer, lowest = options.widths
    costs = [convolution(CHANNELS, options.widths[0], kernel=3, side=image_size)]
    inputs, side = options.widths[0], image_size
    for width in finer:
        costs += _residuals(inputs, width, count=options.residual_blocks, side=side)
        side //= 2
        costs.append(convolution(width, width, kernel=3, side=side, stride=2))
        inputs = width
    costs += _residuals(inputs, lowest, count=options.residual_blocks, side=side)
    costs += [_attention(lowest, side=side)] * options.residual_blocks
    costs += [_middle(lowest, side=side), _norm_swish(lowest, side=side)]
    return total([*costs, convolution(lowest, units, kernel=3, side=side)])


def decoder(options: Convolutional, *, dim: int, channels_out: int, image_size: int) -> Cost:
    """A `towers.Decoder` that gives images of S x S pixels."""
    *finer, lowest = options.widths
    side, count = image_size // options.downsampling, options.residual_blocks + 1
    costs = [convolution(dim, lowest, kernel=3, side=side), _middle(lowest, side=side)]
    costs += _residuals(lowest, lowest, count=count, side=side) + [_attention(lowest, side=side)] * count
    coarser = lowest
    for width in reversed(finer):
        side *= 2
        costs.append(convolution(coarser, coarser, kernel=3, side=side))
        costs += _residuals(coarser, width, count=count, side=side)
        coarser = width
    return total(
        [*costs, _norm_swish(coarser, side=side), convolution(coarser, channels_out, kernel=3, side=side)]
    )


def _residuals(inputs: int, filters: int, *, count: int, side: int) -> list[Cost]:
    """`count` residual blocks, of which the first may change the width."""
    first = _residual(inputs, filters, side=side)
    return [first] + [_residual(filters, filters, side=side)] * (count - 1)


def _residual(inputs: int, filters: int, *, side: int) -> Cost:
    costs = [
        _norm_swish(inputs, side=side),
        convolution(inputs, filters, kernel=3, side=side),
        _norm_swish(filters, side=side),
        convolution(filters, filters, kernel=3, side=side),
    ]
    if inputs != filters:
        costs.append(convolution(inputs, filters, kernel=1, side=side))
    return total(costs)


def _attention(width: int, *, side: int) -> Cost:
    return total([norm(width, rows=side**2, float32=False), attention(width, heads=1, tokens=side**2)])


def _middle(width: int, *, side: int) -> Cost:
    return total([_residual(width, width, side=side)] * 2 + [_attention(width, side=side)])


def _norm_swish(width: int, *, side: int) -> Cost:
    return total([norm(width, rows=side**2, float32=False), kept(width * side**2)])
