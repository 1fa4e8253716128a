"""Configuration that every trainer shares: where, how long, how large, how fast it learns."""

from __future__ import annotations

from typing import Annotated

import pydantic
from pydantic import Field, PositiveInt

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=0)]


class Section(pydantic.BaseModel):
    """Base of every part of the configuration: immutable, and closed to unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Augmentation(Section):
    """Random resized crop and horizontal flip, drawn anew for each variant of an image."""

    min_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    flip: bool = False


class Transformer(Section):
    """Size of a stack of Transformer blocks (Table 2)."""

    blocks: PositiveInt
    heads: PositiveInt
    width: PositiveInt
    hidden: PositiveInt

    @pydantic.model_validator(mode="after")
    def _heads_divide_width(self) -> Transformer:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self


class Optimizer(Section):
    """AdamW under linear warm-up and cosine decay to a floor (section 5.1)."""

    learning_rate: Positive
    final_learning_rate: NonNegative = 0.0
    warmup_steps: Count = 0
    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.99
    weight_decay: NonNegative = 1e-4
    clip_norm: Positive | None = None


class Train(Section):
    """One training run: its length, its batches, its rhythm."""

    steps: PositiveInt
    batch_size: PositiveInt
    optimizer: Optimizer
    steps_per_call: PositiveInt = 10
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 500
    keep_checkpoints: PositiveInt = 2
    jit_compile: bool = False

    @pydantic.model_validator(mode="after")
    def _calls_meet_the_marks(self) -> Train:
        for key in ("log_every", "checkpoint_every"):
            if getattr(self, key) % self.steps_per_call:
                raise ValueError(
                    f"{key} {getattr(self, key)} is not a multiple of steps_per_call {self.steps_per_call}"
                )
        if self.optimizer.warmup_steps >= self.steps:
            raise ValueError(
                f"optimizer.warmup_steps {self.optimizer.warmup_steps} is not below steps {self.steps}"
            )
        return self


class Job(Section):
    """What a trainer is told beside its own section: the run it belongs to."""

    preset: str
    seed: Count
    image_size: PositiveInt
    augmentation: Augmentation
    checkpoints: str
    logs: str
