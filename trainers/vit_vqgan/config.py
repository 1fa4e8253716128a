"""Configuration of the tokenizer, ViT-VQGAN (section 3, Table 2, Table 4)."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import PositiveInt

from trainers.training.config import Count, Fraction, NonNegative, Section, Train, Transformer


class Codebook(Section):
    """Factorized, l2-normalized codes (section 3.2).

    `revive_below` is the share of its fair part (1 / size) of the tokens under which a code counts as
    dead and is moved onto an encoder output of the batch; 0 leaves dead codes alone, as the paper does.
    For the first `continuous_steps` steps the decoder sees the encoder's output itself; all codes are
    then moved onto encoder outputs at once. A short run has no time for codes to find them.
    """

    size: PositiveInt = 8192
    dim: PositiveInt = 32
    l2_normalized: bool = True
    beta: NonNegative = 0.25
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
    """Encoder, quantizer and decoder; 6 output channels are mu and ln b, 3 fix b at 1."""

    patch_size: PositiveInt = 8
    encoder: Transformer
    decoder: Transformer
    codebook: Codebook = Codebook()
    output_channels: Literal[3, 6] = 6


class LossWeights(Section):
    """Weights of the parts of the loss (section 3.3)."""

    vq: NonNegative = 1.0
    l2: NonNegative = 1.0
    logit_laplace: NonNegative = 0.1


class Stage1(Section):
    """The tokenizer and its training."""

    model: Model
    loss: LossWeights = LossWeights()
    train: Train
