"""Configuration that every trainer shares: where, how long, how large, how fast it learns."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import pydantic
from pydantic import Field, PositiveInt

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
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


Rule = Literal["adam", "adafactor"]


class Optimizer(Section):
    """Adam (section 5.1) or Adafactor (section 5.2), with decoupled weight decay, and the learning rate.

    The rate rises over `warmup_steps` to `learning_rate`, holds until `decay_from` (the end of the warm-up,
    where none is given) and falls to `final_learning_rate` at the last step.
    """

    rule: Rule = "adam"
    learning_rate: Positive
    final_learning_rate: NonNegative = 0.0
    warmup_steps: Count = 0
    decay_from: Count | None = None
    decay: Literal["cosine", "exponential"] = "cosine"
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
        if self.decay == "exponential" and not self.final_learning_rate:
            raise ValueError("decay exponential never reaches 0; it needs a final_learning_rate above 0")
        if self.decay_from is not None and self.decay_from < self.warmup_steps:
            raise ValueError(f"decay_from {self.decay_from} is below warmup_steps {self.warmup_steps}")
        return self

    def check_length(self, key: str, steps: int, of: str) -> None:
        """Raises a ValueError, which calls this section `key`, where a training of `steps` is too short."""
        for name in ("warmup_steps", "decay_from"):
            value = getattr(self, name)
            if value is not None and value >= steps:
                raise ValueError(f"{key}.{name} {value} is not below {of} {steps}")


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

    # What says where and in what rhythm training runs, and nothing of what comes of it.
    OPERATIONAL: ClassVar[frozenset[str]] = frozenset(
        ("strategy", "tpu", "steps_per_call", "log_every", "checkpoint_every", "keep_checkpoints")
    )

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
        self.optimizer.check_length("optimizer", self.steps, of="steps")
        return self


class Job(Section):
    """What a trainer is told beside its own section: the run it belongs to."""

    preset: str
    seed: Count
    image_size: PositiveInt
    augmentation: Augmentation
    checkpoints: str
    logs: str
