"""Costs of the tokenizer's parts and of its training (`trainers.accounting` defines what is counted).

`QUANTIZERS` and `DISCRIMINATORS` hold one cost function a kind (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving.export.metadata import CHANNELS
from trainers.accounting import (
    Cost,
    attention,
    blocks,
    convolution,
    dense,
    kept,
    loss,
    memory_flops,
    norm,
    tensor,
    total,
    work,
)
from trainers.training.config import Memory, Transformer
from trainers.vit_vqgan.config import FSQ, VQ, Convolutional, Model, PatchGAN, Stage1, StyleGAN2

# Channels of VGG16's convolutions (Simonyan and Zisserman 2014, configuration D), a stage a row.
VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def parts(model: Model, *, image_size: int, memory: Memory = Memory()) -> dict[str, Cost]:
    """Costs of `encoder`, `factorize`, `quantizer` and `decoder`, for images of S x S pixels."""
    tokens = (image_size // model.patch_size) ** 2
    return {
        "encoder": _encoder(model, image_size, memory),
        "factorize": dense(_latent_width(model), model.codebook.dim, rows=tokens, float32=True),
        "quantizer": QUANTIZERS[model.codebook.kind](model.codebook, tokens),
        "decoder": _decoder(model, image_size, memory),
    }


def encode(model: Model, *, image_size: int) -> Cost:
    """From pixels to tokens: encoder, factorized projection and quantizer."""
    costs = parts(model, image_size=image_size)
    return total([costs["encoder"], costs["factorize"], costs["quantizer"]])


def reconstruct(model: Model, *, image_size: int) -> Cost:
    """From pixels to tokens to pixels: the whole tokenizer, forward."""
    return total(parts(model, image_size=image_size).values())


def critics(stage: Stage1, *, image_size: int) -> dict[str, Cost]:
    """Costs of the networks that only training needs, on one image: `discriminator` and `perceptual`.

    Those whose loss has weight 0 are left out, and so is a perceptual network from a SavedModel, whose size
    is unknown.
    """
    costs = {}
    if stage.loss.adversarial:
        options = stage.adversary.discriminator
        costs["discriminator"] = DISCRIMINATORS[options.network](options, image_size)
    if stage.loss.perceptual and not stage.perceptual.savedmodel:
        costs["perceptual"] = vgg16(image_size=image_size)
    return costs


def step_flops(stage: Stage1, *, image_size: int) -> dict[str, int]:
    """FLOPs of a training step for each of its images, by purpose.

    A backward pass costs twice its forward pass: gradients of the inputs and of the weights.

    `tokenizer`: 3 forward passes, of which the quantizer counts once, because no gradient flows through its
      comparison with all codes.
    `gradient checkpointing`, `blockwise attention`: what saves memory in the Transformer blocks.
    `entropy`: the comparison with all codes again, this time with gradients, if it is regularized.
    `perceptual`: 3 of its forward passes, on image, reconstruction, and back to the latter's pixels.
    `adversary`: 7 of the discriminator's: forward on image and reconstruction (2), back to the
      reconstruction's pixels (1), back to its own weights from both (4).
    `r1`: 6 on a step that computes it: forward (1), back to the pixels (1), and back through both (4).
    """
    model = stage.model
    costs = parts(model, image_size=image_size)
    comparison = costs["quantizer"].flops
    flops = {"tokenizer": 3 * total(costs.values()).flops - 2 * comparison}
    tokens = (image_size // model.patch_size) ** 2
    for tower in (model.encoder, model.decoder):
        if isinstance(tower, Transformer):
            for name, added in memory_flops(tower, tokens=tokens, memory=stage.train.memory).items():
                flops[name] = flops.get(name, 0) + added
    if isinstance(model.codebook, VQ) and model.codebook.entropy:
        flops["entropy"] = 3 * comparison
    networks = critics(stage, image_size=image_size)
    if "perceptual" in networks:
        flops["perceptual"] = 3 * networks["perceptual"].flops
    if "discriminator" in networks:
        flops["adversary"] = 7 * networks["discriminator"].flops
        if stage.adversary.gamma(image_size=image_size, batch_size=stage.train.batch_size):
            flops["r1"] = 6 * networks["discriminator"].flops
    return flops


def vector_quantizer(codebook: VQ, tokens: int) -> Cost:
    """Comparing N latents with K codes of c numbers, 2 N K c FLOPs.

    No gradient flows through the comparison, and its N K results are not kept for the backward pass. Entropy
    regularization keeps two as large, the probabilities and their logarithms.
    """
    probabilities = 2 * tokens * codebook.size if codebook.entropy else 0
    return total(
        [
            tensor(codebook.size, codebook.dim),
            work(flops=2 * tokens * codebook.size * codebook.dim),
            loss(2 * tokens * codebook.dim + probabilities),
        ]
    )


def finite_scalar_quantizer(codebook: FSQ, tokens: int) -> Cost:
    """A tanh and a rounding of N latents: no weights, no products."""
    return loss(2 * tokens * codebook.dim)


QUANTIZERS: dict[str, Callable[[Any, int], Cost]] = {
    "vq": vector_quantizer,
    "fsq": finite_scalar_quantizer,
}


def vgg16(*, image_size: int) -> Cost:
    """The convolutions of VGG16 up to relu5_3 on one image of S x S pixels; every ReLU keeps its output."""
    costs, inputs, side = [], CHANNELS, image_size
    for stage in VGG16_STAGES:
        for filters in stage:
            costs += [convolution(inputs, filters, kernel=3, side=side), kept(filters * side**2)]
            inputs = filters
        side //= 2
    return total(costs)


def stylegan2(options: StyleGAN2, image_size: int) -> Cost:
    """StyleGAN2's discriminator on one image of S x S pixels.

    Blurs are not counted: computed as matrix products they add a quarter of these FLOPs at 256 pixels;
    computed as additions, next to none.
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


def patchgan(options: PatchGAN, image_size: int) -> Cost:
    """PatchGAN on one image of S x S pixels."""
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
    """A convolution with a bias, then a leaky ReLU."""
    return total(
        [convolution(inputs, filters, kernel=kernel, side=side, stride=stride), kept(filters * side**2)]
    )


DISCRIMINATORS: dict[str, Callable[[Any, int], Cost]] = {"stylegan2": stylegan2, "patchgan": patchgan}


def _latent_width(model: Model) -> int:
    encoder = model.encoder
    return encoder.widths[-1] if isinstance(encoder, Convolutional) else encoder.width


def _encoder(model: Model, image_size: int, memory: Memory) -> Cost:
    width = _latent_width(model)
    if isinstance(model.encoder, Convolutional):
        return cnn_encoder(model.encoder, units=width, image_size=image_size)
    inputs = CHANNELS * model.patch_size**2
    return _vit_tower(model, model.encoder, inputs, width, image_size, memory)


def _decoder(model: Model, image_size: int, memory: Memory) -> Cost:
    dim, channels = model.codebook.dim, model.output_channels
    if isinstance(model.decoder, Convolutional):
        return cnn_decoder(model.decoder, dim=dim, channels_out=channels, image_size=image_size)
    units = channels * model.patch_size**2
    return _vit_tower(model, model.decoder, dim, units, image_size, memory)


def _vit_tower(
    model: Model, size: Transformer, inputs: int, units: int, image_size: int, memory: Memory
) -> Cost:
    """A `vit.Tower` from [N, inputs] to [N, units]."""
    tokens = (image_size // model.patch_size) ** 2
    return total(
        [
            dense(inputs, size.width, rows=tokens),
            tensor(tokens, size.width),  # positions
            blocks(size, tokens=tokens, memory=memory),
            norm(size.width, rows=tokens),
            dense(size.width, size.hidden, rows=tokens),
            kept(tokens * size.hidden),
            dense(size.hidden, units, rows=tokens, float32=True),
        ]
    )


def cnn_encoder(options: Convolutional, *, units: int, image_size: int) -> Cost:
    """A `cnn.Encoder` on images of S x S pixels."""
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


def cnn_decoder(options: Convolutional, *, dim: int, channels_out: int, image_size: int) -> Cost:
    """A `cnn.Decoder` that returns images of S x S pixels."""
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
