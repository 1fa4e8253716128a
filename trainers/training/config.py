"""Configuration that every trainer shares: where, how long, how large, how fast it learns."""

from __future__ import annotations

from typing import Annotated, Literal

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
    beta_1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta_2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    weight_decay: NonNegative = 1e-4
    clip_norm: Positive | None = None

    @pydantic.model_validator(mode="after")
    def _falls_to_its_floor(self) -> Optimizer:
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate {self.final_learning_rate} is above learning_rate {self.learning_rate}"
            )
        return self


class Tpu(Section):
    """Where the TPU is; `name` is `local` on a TPU VM itself, and without it TPU_NAME says."""

    name: str | None = None
    zone: str | None = None
    project: str | None = None


class Train(Section):
    """One training run: its length, its batches, its rhythm, and what it runs on.

    `batch_size` is that of the whole step, over all replicas and all `accumulate` parts that a replica
    takes one after the other. `recompute` keeps the input of a Transformer block alone and computes the
    rest again on the way back (gradient checkpointing); convolutional networks have no such blocks. With
    `ema_decay` the average of the weights is what is evaluated and exported.
    """

    steps: PositiveInt
    batch_size: PositiveInt
    optimizer: Optimizer
    accumulate: PositiveInt = 1
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    recompute: bool = False
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"] = "auto"
    tpu: Tpu = Tpu()
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
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}"
            )
        if self.jit_compile and self.strategy not in ("auto", "one_device"):
            raise ValueError(
                f"jit_compile is for one device; strategy {self.strategy} compiles by itself or not at all"
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
