"""Configuration of the tokenizer, ViT-VQGAN (section 3, Table 2, Table 4)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Discriminator, Field, PositiveInt, Tag

from trainers.training.alarms import Alarm
from trainers.training.config import (
    Count,
    Fraction,
    NonNegative,
    Optimizer,
    Positive,
    Section,
    Train,
    Transformer,
)

STYLEGAN2_IMAGE_SIZES = (16, 32, 64, 128, 256, 512)
# StyleGAN2 halves images until they are this small.
STYLEGAN2_FINAL_SIZE = 4
# PatchGAN's channels double from layer to layer, but not beyond this multiple of the first.
PATCHGAN_MAX_MULTIPLE = 8
# Loss of a discriminator that knows nothing: 2 ln 2.
CHANCE_LEVEL = 2 * math.log(2)
# Outside of these shares of chance level its gradient teaches the tokenizer little: at 0.97, where our digits
# once trained throughout, it knows nothing; at 0.1 it is certain, with logits some 6 apart.
AT_CHANCE, WON = 0.95, 0.1
SAVEDMODEL = "savedmodel:"
# Four poolings lie before relu5_3.
VGG16_SMALLEST_SIDE = 16


class Convolutional(Section):
    """Size of a convolutional tower (VQGAN, Esser et al. 2021, arXiv:2012.09841, Table 7).

    A resolution has `channels` times its multiplier channels, the finest first, and half the side of the one
    before; Table 1's two baselines have 128 and 256 channels. The decoder has one residual block a resolution
    more than `residual_blocks`.
    """

    channels: PositiveInt = 128
    multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 2, 4)
    residual_blocks: PositiveInt = 2

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, the finest first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def downsampling(self) -> int:
        """The side of the square of pixels that one token stands for."""
        return 2 ** (len(self.multipliers) - 1)


def _kind_of_tower(given: Any) -> str:
    if isinstance(given, dict):
        convolutional = not given.keys().isdisjoint(Convolutional.model_fields)
    else:
        convolutional = isinstance(given, Convolutional)
    return "convolutional" if convolutional else "transformer"


# Told apart by their keys, so that an error in one is not reported for the other.
Tower = Annotated[
    Annotated[Transformer, Tag("transformer")] | Annotated[Convolutional, Tag("convolutional")],
    Discriminator(_kind_of_tower),
]


class VQ(Section):
    """Vector quantization with factorized, l2-normalized codes (section 3.2).

    A code whose share of the tokens is below `revive_below` times the uniform share (1 / size) counts as dead
    and is moved onto an encoder output of the batch; 0 leaves dead codes alone, as the paper does. In the
    first `continuous_steps` steps the decoder sees the encoder's output itself; then all codes are moved onto
    encoder outputs at once. Short runs need both. `reduction` is over the dimensions of a code: the paper's
    norm is a sum, its implementations take the mean. `entropy` weighs a regularization that makes each token
    certain of its code and all codes used; it is taken over the images that a replica computes at once.
    """

    kind: Literal["vq"] = "vq"
    size: PositiveInt = 8192
    dim: PositiveInt = 32
    l2_normalized: bool = True
    beta: NonNegative = 0.25
    reduction: Literal["mean", "sum"] = "mean"
    entropy: NonNegative = 0.0
    revive_below: Fraction = 0.0
    continuous_steps: Count = 0

    @property
    def code_norm(self) -> float:
        """The expected norm of a code; the decoder's first layer scales by it."""
        return 1.0 if self.l2_normalized else self.dim**0.5

    @pydantic.model_validator(mode="after")
    def _codes_can_be_moved(self) -> VQ:
        if self.continuous_steps and not self.revive_below:
            raise ValueError(
                f"revive_below must be above 0 for continuous_steps {self.continuous_steps}, got 0"
            )
        return self


class FSQ(Section):
    """Finite scalar quantization (Mentzer et al. 2023, arXiv:2309.15505): a grid of `levels` a dimension.

    Nothing is learned, and no code can die. Table 1 of that paper recommends (8, 6, 5) for 2^8 codes,
    (8, 5, 5, 5) for 2^10 and (7, 5, 5, 5, 5) for 2^12.
    """

    kind: Literal["fsq"]
    levels: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (8, 5, 5, 5)

    @property
    def size(self) -> int:
        """The number of codes."""
        return math.prod(self.levels)

    @property
    def dim(self) -> int:
        """The number of dimensions of a code."""
        return len(self.levels)

    @property
    def code_norm(self) -> float:
        """The root mean square norm of a code over the whole grid."""
        grids = [[(index - count // 2) / (count // 2) for index in range(count)] for count in self.levels]
        return math.sqrt(sum(sum(x * x for x in grid) / len(grid) for grid in grids))


def _kind_of_codebook(given: Any) -> str:
    return given.get("kind", "vq") if isinstance(given, dict) else given.kind


Codebook = Annotated[
    Annotated[VQ, Tag("vq")] | Annotated[FSQ, Tag("fsq")],
    Discriminator(_kind_of_codebook),
]


class Model(Section):
    """Encoder, quantizer and decoder; 6 output channels are mu and ln b, 3 fix b at 1.

    A convolutional tower (VQGAN's, Table 1) implies the patch size: each halving doubles it.
    """

    patch_size: Annotated[int, Field(ge=2)] = 8
    encoder: Tower
    decoder: Tower
    codebook: Codebook = VQ()
    output_channels: Literal[3, 6] = 6

    @pydantic.model_validator(mode="after")
    def _towers_agree_on_the_patch(self) -> Model:
        for name in ("encoder", "decoder"):
            tower = getattr(self, name)
            if isinstance(tower, Convolutional) and tower.downsampling != self.patch_size:
                raise ValueError(
                    f"patch_size must be {tower.downsampling}, the downsampling of the convolutional {name} "
                    f"with multipliers {list(tower.multipliers)}, got {self.patch_size}"
                )
        return self


class LossWeights(Section):
    """Weights of the terms of the loss (section 3.3); 0 leaves a term out, and its network unbuilt."""

    vq: NonNegative = 1.0
    l2: NonNegative = 1.0
    logit_laplace: NonNegative = 0.1
    adversarial: NonNegative = 0.1
    perceptual: NonNegative = 0.1

    @pydantic.model_validator(mode="after")
    def _compares_images(self) -> LossWeights:
        if not (self.l2 or self.logit_laplace or self.perceptual):
            raise ValueError("one of l2, logit_laplace and perceptual must be above 0, got 0 for all")
        return self


class Perceptual(Section):
    """The perceptual loss' network: `vgg16`, `lpips_vgg`, or `savedmodel:PATH` with a signature `distance`.

    For `vgg16`, `weights` is a file of its weights without its top, `.h5` or `.weights.h5` as
    keras.applications keeps them; without it keras.applications looks into its cache, then downloads them.
    For `lpips_vgg` it is an `.npz` file (docs/training.md). The distances of `lpips_vgg` and of LPIPS in a
    SavedModel are about an eleventh of those of `vgg16`, so the same `loss.perceptual` weighs less with them.
    """

    network: str = "vgg16"
    weights: str | None = None

    @property
    def savedmodel(self) -> str | None:
        """The SavedModel's folder, or None if the network is VGG16."""
        return self.network.removeprefix(SAVEDMODEL) if self.network.startswith(SAVEDMODEL) else None

    @property
    def smallest_side(self) -> int:
        """The smallest image side in pixels; unknown, hence 1, for a SavedModel."""
        return 1 if self.savedmodel else VGG16_SMALLEST_SIDE

    @pydantic.model_validator(mode="after")
    def _is_a_known_network(self) -> Perceptual:
        if self.network not in ("vgg16", "lpips_vgg") and not self.savedmodel:
            raise ValueError(f"network must be vgg16, lpips_vgg or {SAVEDMODEL}PATH, got {self.network!r}")
        if self.network == "lpips_vgg" and not self.weights:
            raise ValueError("weights must be an .npz file for network lpips_vgg, got none")
        if self.savedmodel and self.weights:
            raise ValueError(
                f"weights must be absent for {self.network}, which holds its own, got {self.weights!r}"
            )
        return self


class StyleGAN2(Section):
    """The residual discriminator of StyleGAN2 (Karras et al. 2020), the paper's choice (section 3.3).

    At a resolution of r pixels it has min(`max_channels`, `channel_multiplier` * 16384 / r) channels; a
    multiplier of 2 gives StyleGAN2's configuration F: 512 channels up to 64 pixels, 128 at 256 pixels.
    `minibatch_stddev` is the group size of the minibatch standard deviation; 0 leaves it out.
    """

    network: Literal["stylegan2"] = "stylegan2"
    channel_multiplier: Positive = 1.0
    max_channels: PositiveInt = 512
    minibatch_stddev: Count = 0

    @pydantic.field_validator("minibatch_stddev")
    @classmethod
    def _one_image_has_no_deviation(cls, group: int) -> int:
        if group == 1:
            raise ValueError("must be 0, or 2 or more")
        return group

    def check_image_size(self, image_size: int) -> None:
        """Raise a ValueError unless images are a power of two, 16 to 512 pixels, wide."""
        if image_size not in STYLEGAN2_IMAGE_SIZES:
            sizes = ", ".join(map(str, STYLEGAN2_IMAGE_SIZES))
            raise ValueError(
                f"image size must be one of {sizes} for discriminator stylegan2, got {image_size}"
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
    """The patch discriminator of Isola et al. 2017, as VQGAN uses it (ablation in Table 4).

    The first of `layers` strided convolutions has `channels` channels, and each later one twice as many, up
    to eight times.
    """

    network: Literal["patchgan"] = "patchgan"
    channels: PositiveInt = 64
    layers: PositiveInt = 3

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of its convolutions: the strided ones, and the one behind them."""
        return tuple(self.channels * min(2**layer, PATCHGAN_MAX_MULTIPLE) for layer in range(self.layers + 1))

    def check_image_size(self, image_size: int) -> None:
        """Raise a ValueError unless the strided convolutions halve the image evenly."""
        if image_size % 2**self.layers:
            raise ValueError(
                f"image size must be a multiple of {2**self.layers} (2^layers) for discriminator patchgan, "
                f"got {image_size}"
            )


AnyDiscriminator = Annotated[StyleGAN2 | PatchGAN, Field(discriminator="network")]


class Adversary(Section):
    """The discriminator and its training (section 5.1; Karras et al. 2020 for R1).

    R1 has weight gamma / 2 and is computed every `r1_every` steps, scaled by `r1_every`. `r1_gamma` 0 leaves
    it out; without a number it follows the size of images and batch (`gamma`). Before `start_step` the
    discriminator is neither trained nor part of the loss; its learning-rate schedule then spans the steps
    that are left. `lecam` weighs the regularization of Tseng et al. 2021.
    `optimizer` is the tokenizer's by default.

    StyleGAN2's weights, N(0, 1) and scaled at use, are made for a learning rate of about 2e-3, whatever the
    tokenizer's is.
    """

    discriminator: AnyDiscriminator = StyleGAN2()
    r1_gamma: NonNegative | None = None
    r1_every: PositiveInt = 16
    start_step: Count = 0
    lecam: NonNegative = 0.0
    optimizer: Optimizer | None = None

    def gamma(self, *, image_size: int, batch_size: int) -> float:
        """The gamma of R1: `r1_gamma`, or 0.0002 side^2 / batch (Karras et al. 2020b, arXiv:2006.06676).

        Gamma 10, StyleGAN2's for 1024 pixels, held our discriminators of 32 pixels at chance level
        (docs/training.md).
        """
        return 0.0002 * image_size**2 / batch_size if self.r1_gamma is None else self.r1_gamma


class Stage1(Section):
    """The tokenizer and its training; codebook usage below `usage_alarm` is reported."""

    model: Model
    loss: LossWeights = LossWeights()
    perceptual: Perceptual = Perceptual()
    adversary: Adversary = Adversary()
    usage_alarm: Fraction = 0.05
    train: Train

    @property
    def alarms(self) -> list[Alarm]:
        """What is watched in training: codebook usage, and a discriminator that teaches nothing."""
        alarms = [
            Alarm(
                "codebook_usage",
                "codes are unused",
                "codebook.revive_below moves dead codes, a smaller codebook.dim keeps more alive",
                below=self.usage_alarm,
            )
        ]
        if self.loss.adversarial:
            start = self.adversary.start_step
            learned = start + (self.train.steps - start) // 2
            alarms += [
                Alarm(
                    "discriminator",
                    "discriminator at chance",
                    "lower adversary.r1_gamma, or raise its learning rate or size",
                    above=AT_CHANCE * CHANCE_LEVEL,
                    from_step=learned,
                ),
                Alarm(
                    "discriminator",
                    "discriminator won",
                    "raise adversary.r1_gamma, or lower its learning rate or size",
                    below=WON * CHANCE_LEVEL,
                    from_step=learned,
                ),
            ]
        return alarms

    @pydantic.model_validator(mode="after")
    def _adversary_has_time(self) -> Stage1:
        steps, adversary = self.train.steps, self.adversary
        if adversary.start_step >= steps:
            raise ValueError(
                f"adversary.start_step must be below train.steps {steps}, got {adversary.start_step}"
            )
        left, late = steps - adversary.start_step, bool(adversary.start_step)
        of = "train.steps - adversary.start_step" if late else "train.steps"
        if adversary.optimizer:
            adversary.optimizer.check_length("adversary.optimizer", left, of=of)
        elif self.loss.adversarial:
            self.train.optimizer.check_length("train.optimizer", left, of=of)
        return self

    @pydantic.model_validator(mode="after")
    def _minibatch_groups_are_whole(self) -> Stage1:
        # Only the trainer knows the number of replicas; `Objective` checks again.
        group = getattr(self.adversary.discriminator, "minibatch_stddev", 0)
        micro_batch = self.train.batch_size // self.train.gradient_accumulation_steps
        if self.loss.adversarial and group and micro_batch % group:
            raise ValueError(
                f"adversary.discriminator.minibatch_stddev must divide the {micro_batch} images of a "
                f"micro-batch (train.batch_size / train.gradient_accumulation_steps), got {group}"
            )
        return self
