"""Configuration of the tokenizer, ViT-VQGAN (section 3, Table 2, Table 4)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Discriminator, Field, PositiveInt, Tag

from trainers.training.config import Count, Fraction, NonNegative, Optimizer, Section, Train, Transformer
from trainers.vit_vqgan.convolutional.config import Convolutional
from trainers.vit_vqgan.discriminator.config import Discriminator as AnyDiscriminator
from trainers.vit_vqgan.discriminator.config import StyleGAN2
from trainers.vit_vqgan.perceptual.config import Perceptual


def _kind_of_tower(given: Any) -> str:
    if isinstance(given, dict):
        convolutional = not given.keys().isdisjoint(Convolutional.model_fields)
    else:
        convolutional = isinstance(given, Convolutional)
    return "convolutional" if convolutional else "transformer"


# Told apart by their keys, so that what is wrong with one is not said of the other.
Tower = Annotated[
    Annotated[Transformer, Tag("transformer")] | Annotated[Convolutional, Tag("convolutional")],
    Discriminator(_kind_of_tower),
]


class Codebook(Section):
    """Factorized, l2-normalized codes (section 3.2).

    `revive_below` is the share of its fair part (1 / size) of the tokens under which a code counts as
    dead and is moved onto an encoder output of the batch; 0 leaves dead codes alone, as the paper does.
    For the first `continuous_steps` steps the decoder sees the encoder's output itself; all codes are
    then moved onto encoder outputs at once. A short run has no time for codes to find them.
    `reduction` is over the dimensions of a code: the paper's norm is a sum, its implementations take the
    mean. `entropy` weighs a regularization that makes each token sure of its code and all codes used;
    it is taken over the images that a replica has at once, and not over the whole batch.
    """

    size: PositiveInt = 8192
    dim: PositiveInt = 32
    l2_normalized: bool = True
    beta: NonNegative = 0.25
    reduction: Literal["mean", "sum"] = "mean"
    entropy: NonNegative = 0.0
    revive_below: Fraction = 0.0
    continuous_steps: Count = 0

    @pydantic.model_validator(mode="after")
    def _codes_can_be_moved(self) -> Codebook:
        if self.continuous_steps and not self.revive_below:
            raise ValueError(
                f"continuous_steps {self.continuous_steps} needs revive_below above 0, which moves the codes"
            )
        return self


class Model(Section):
    """Encoder, quantizer and decoder; 6 output channels are mu and ln b, 3 fix b at 1.

    A convolutional tower (VQGAN's, Table 1) brings its patch size along: each of its halvings is a 2.
    """

    patch_size: Annotated[int, Field(ge=2)] = 8
    encoder: Tower
    decoder: Tower
    codebook: Codebook = Codebook()
    output_channels: Literal[3, 6] = 6

    @pydantic.model_validator(mode="after")
    def _towers_agree_on_the_patch(self) -> Model:
        for name in ("encoder", "decoder"):
            tower = getattr(self, name)
            if isinstance(tower, Convolutional) and tower.downsampling != self.patch_size:
                raise ValueError(
                    f"patch_size {self.patch_size} is not the downsampling {tower.downsampling} of the "
                    f"convolutional {name} with multipliers {list(tower.multipliers)}"
                )
        return self


class LossWeights(Section):
    """Weights of the parts of the loss (section 3.3); 0 leaves a part out, and its network unbuilt."""

    vq: NonNegative = 1.0
    l2: NonNegative = 1.0
    logit_laplace: NonNegative = 0.1
    adversarial: NonNegative = 0.1
    perceptual: NonNegative = 0.1

    @pydantic.model_validator(mode="after")
    def _something_draws_the_picture(self) -> LossWeights:
        if not (self.l2 or self.logit_laplace or self.perceptual):
            raise ValueError(
                "l2, logit_laplace and perceptual are all 0; nothing is left to compare pictures"
            )
        return self


class Adversary(Section):
    """The discriminator and its training (section 5.1; Karras et al. 2020 for R1).

    R1 has weight `r1_gamma` / 2 and is taken every `r1_every` steps with as much more weight; 0 leaves it
    out. Before `start_step` the discriminator neither learns nor is heard; its learning rate then goes
    through its whole schedule in the steps that are left. `lecam` weighs the regularization of Tseng et al.
    2021. `optimizer` is the tokenizer's where none is given.
    """

    discriminator: AnyDiscriminator = StyleGAN2()
    r1_gamma: NonNegative = 10.0
    r1_every: PositiveInt = 16
    start_step: Count = 0
    lecam: NonNegative = 0.0
    optimizer: Optimizer | None = None


class Stage1(Section):
    """The tokenizer and its training; codebook usage under `usage_alarm` is said in log and report."""

    model: Model
    loss: LossWeights = LossWeights()
    perceptual: Perceptual = Perceptual()
    adversary: Adversary = Adversary()
    usage_alarm: Fraction = 0.05
    train: Train

    @pydantic.model_validator(mode="after")
    def _the_adversary_has_time(self) -> Stage1:
        steps, adversary = self.train.steps, self.adversary
        if adversary.start_step >= steps:
            raise ValueError(f"adversary.start_step {adversary.start_step} is not below train.steps {steps}")
        left, late = steps - adversary.start_step, bool(adversary.start_step)
        of = "train.steps less adversary.start_step," if late else "train.steps"
        if adversary.optimizer:
            adversary.optimizer.check_length("adversary.optimizer", left, of=of)
        elif self.loss.adversarial:
            self.train.optimizer.check_length("train.optimizer", left, of=of)
        return self

    @pydantic.model_validator(mode="after")
    def _groups_are_whole(self) -> Stage1:
        # On how many replicas, only the trainer knows; `Objective` asks again.
        group = getattr(self.adversary.discriminator, "minibatch_stddev", 0)
        part = self.train.batch_size // self.train.accumulate
        if self.loss.adversarial and group and part % group:
            raise ValueError(
                f"adversary.discriminator.minibatch_stddev {group} does not divide the {part} images of "
                "train.batch_size, in train.accumulate parts"
            )
        return self
