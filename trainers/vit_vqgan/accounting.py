"""What the parts of the tokenizer and its training cost (`trainers.accounting` says what is counted)."""

from __future__ import annotations

from trainers.accounting import Cost, blocks, dense, kept, loss, norm, tensor, total, work
from trainers.training.config import Transformer
from trainers.vit_vqgan.config import Model, Stage1
from trainers.vit_vqgan.convolutional import accounting as convolutional
from trainers.vit_vqgan.convolutional.config import Convolutional
from trainers.vit_vqgan.discriminator.accounting import discriminator
from trainers.vit_vqgan.perceptual.accounting import vgg16

CHANNELS = 3


def parts(model: Model, *, image_size: int, recompute: bool = False) -> dict[str, Cost]:
    """Costs of `encoder`, `factorize`, `codebook` and `decoder`, for images of S x S pixels.

    The codebook's FLOPs are those of comparing N latents with K codes of c numbers, 2 N K c; no gradient
    flows through this comparison, and its N K results are not kept for the way back. Entropy regularization
    keeps two as large, the probabilities and their logarithms.
    """
    tokens = (image_size // model.patch_size) ** 2
    codebook = model.codebook
    probabilities = 2 * tokens * codebook.size if codebook.entropy else 0
    return {
        "encoder": _encoder(model, image_size, recompute),
        "factorize": dense(_latent_width(model), codebook.dim, rows=tokens, float32=True),
        "codebook": total(
            [
                tensor(codebook.size, codebook.dim),
                work(flops=2 * tokens * codebook.size * codebook.dim),
                loss(2 * tokens * codebook.dim + probabilities),
            ]
        ),
        "decoder": _decoder(model, image_size, recompute),
    }


def encode(model: Model, *, image_size: int) -> Cost:
    """From pixels to tokens: the encoder, the factorized projection and the look-up."""
    costs = parts(model, image_size=image_size)
    return total([costs["encoder"], costs["factorize"], costs["codebook"]])


def reconstruct(model: Model, *, image_size: int) -> Cost:
    """From pixels to tokens to pixels: the whole tokenizer, forward."""
    return total(parts(model, image_size=image_size).values())


def critics(stage: Stage1, *, image_size: int) -> dict[str, Cost]:
    """Costs of the networks that only training needs, on one image: `discriminator` and `perceptual`.

    Those whose loss has weight 0 are left out, and so is a perceptual network from a SavedModel, which
    tells nothing of its size.
    """
    costs = {}
    if stage.loss.adversarial:
        costs["discriminator"] = discriminator(stage.adversary.discriminator, image_size=image_size)
    if stage.loss.perceptual and not stage.perceptual.savedmodel:
        costs["perceptual"] = vgg16(image_size=image_size)
    return costs


def step_flops(stage: Stage1, *, image_size: int) -> dict[str, int]:
    """FLOPs of a training step for each of its images, by what they are for.

    A backward pass costs twice its forward pass: gradients of the inputs and of the weights.

    `tokenizer`: 3 forward passes, of which the look-up counts once.
    `recompute`: one more forward pass of the Transformer blocks, where they are recomputed.
    `entropy`: the comparison with all codes anew, this time with gradients, where it is regularized.
    `perceptual`: 3 of its forward passes, on image, reconstruction, and back to the latter's pixels.
    `adversary`: 7 of the discriminator's: forward on image and reconstruction (2), back to the
      reconstruction's pixels (1), back to its own weights from both (4).
    `r1`: 6 on a step that takes it: forward (1), back to the pixels (1), and back through both (4).
    """
    model = stage.model
    costs = parts(model, image_size=image_size)
    look_up = costs["codebook"].flops
    flops = {"tokenizer": 3 * total(costs.values()).flops - 2 * look_up}
    if stage.train.recompute:
        tokens = (image_size // model.patch_size) ** 2
        towers = [tower for tower in (model.encoder, model.decoder) if isinstance(tower, Transformer)]
        flops["recompute"] = total(blocks(tower, tokens=tokens) for tower in towers).flops
    if model.codebook.entropy:
        flops["entropy"] = 3 * look_up
    networks = critics(stage, image_size=image_size)
    if "perceptual" in networks:
        flops["perceptual"] = 3 * networks["perceptual"].flops
    if "discriminator" in networks:
        flops["adversary"] = 7 * networks["discriminator"].flops
        if stage.adversary.r1_gamma:
            flops["r1"] = 6 * networks["discriminator"].flops
    return flops


def _latent_width(model: Model) -> int:
    encoder = model.encoder
    return encoder.widths[-1] if isinstance(encoder, Convolutional) else encoder.width


def _encoder(model: Model, image_size: int, recompute: bool) -> Cost:
    width = _latent_width(model)
    if isinstance(model.encoder, Convolutional):
        return convolutional.encoder(model.encoder, units=width, image_size=image_size)
    return _tower(model, model.encoder, CHANNELS * model.patch_size**2, width, image_size, recompute)


def _decoder(model: Model, image_size: int, recompute: bool) -> Cost:
    dim, channels = model.codebook.dim, model.output_channels
    if isinstance(model.decoder, Convolutional):
        return convolutional.decoder(model.decoder, dim=dim, channels_out=channels, image_size=image_size)
    return _tower(model, model.decoder, dim, channels * model.patch_size**2, image_size, recompute)


def _tower(
    model: Model, size: Transformer, inputs: int, units: int, image_size: int, recompute: bool
) -> Cost:
    """A `vision_transformer.Tower` from [N, inputs] to [N, units]."""
    tokens = (image_size // model.patch_size) ** 2
    return total(
        [
            dense(inputs, size.width, rows=tokens),
            tensor(tokens, size.width),  # positions
            blocks(size, tokens=tokens, recompute=recompute),
            norm(size.width, rows=tokens),
            dense(size.width, size.hidden, rows=tokens),
            kept(tokens * size.hidden),
            dense(size.hidden, units, rows=tokens, float32=True),
        ]
    )
