"""Configuration that the trainers share: length, batch, precision, optimizer and devices."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

import pydantic
from pydantic import Field, PositiveInt

from serving.export.metadata import MAX_PIXELS, WHITE

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Precision = Literal["float32", "bfloat16"]


class Section(pydantic.BaseModel):
    """Base of every part of the configuration: immutable, and closed to unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Augmentation(Section):
    """Random resized crop and horizontal flip, new for each variant of an image."""

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
            raise ValueError(f"width must be a multiple of heads {self.heads}, got {self.width}")
        return self


OptimizerName = Literal["adam", "adafactor"]


class Optimizer(Section):
    """Adam (section 5.1) or Adafactor (section 5.2), with decoupled weight decay and a schedule.

    The learning rate rises over `warmup_steps` to `learning_rate`, holds until `decay_from` (by default the
    end of the warm-up) and falls to `final_learning_rate` at the last step. `epsilon` is Adam's; Adafactor
    has its own.
    """

    name: OptimizerName = "adam"
    learning_rate: Positive
    final_learning_rate: NonNegative = 0.0
    warmup_steps: Count = 0
    decay_from: Count | None = None
    decay: Literal["cosine", "exponential"] = "cosine"
    beta_1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta_2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    # The gradient of one of 8,192 codes is some 1e-8: Keras' 1e-7 would cut its steps to a sixth.
    epsilon: Positive = 1e-12
    weight_decay: NonNegative = 1e-4
    clip_norm: Positive | None = None

    @pydantic.model_validator(mode="after")
    def _schedule_is_possible(self) -> Optimizer:
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate must be at most learning_rate {self.learning_rate}, "
                f"got {self.final_learning_rate}"
            )
        if self.decay == "exponential" and not self.final_learning_rate:
            raise ValueError("final_learning_rate must be above 0 for decay exponential, got 0")
        if self.decay_from is not None and self.decay_from < self.warmup_steps:
            raise ValueError(
                f"decay_from must be at least warmup_steps {self.warmup_steps}, got {self.decay_from}"
            )
        return self

    def check_length(self, key: str, steps: int, of: str) -> None:
        """Raise a ValueError, which calls this section `key`, if the schedule does not fit into `steps`."""
        for name in ("warmup_steps", "decay_from"):
            value = getattr(self, name)
            if value is not None and value >= steps:
                raise ValueError(f"{key}.{name} must be below {of} {steps}, got {value}")


class Tpu(Section):
    """Address of the TPU: `name` is `local` on a TPU VM itself; without it, TPU_NAME is read."""

    name: str | None = None
    zone: str | None = None
    project: str | None = None


class Memory(NamedTuple):
    """How a stack of Transformer blocks saves memory in training (`trainers.transformer.Block`)."""

    gradient_checkpointing: bool = False
    blockwise_attention: bool = False


# `warm_start`: the last pushed model instead of a path. Also the `Job.start` of such a training.
PUSHED = "pushed"


class Train(Section):
    """One training run.

    `batch_size` counts a whole step: all replicas, and all of the `gradient_accumulation_steps` micro-batches
    that a replica computes one after the other. `gradient_checkpointing` keeps only the input of each
    Transformer block and recomputes the rest in the backward pass; `blockwise_attention` keeps no attention
    weights, which is for accelerators: on a CPU it takes longer. Convolutional networks have no such blocks.
    With `ema_decay`, the exponential moving average of the weights is evaluated and exported. `zero_stage` 1
    shards Adam's slots and the averages among replicas (`trainers.training.sharding`).

    Every `checkpoint_every` steps the held-out loss is taken and a checkpoint written; `checkpoint_minutes`
    writes further ones in between. `export` takes the weights of the lowest held-out loss, whose checkpoint
    stays beside the last `keep_checkpoints`, or the last ones. `warm_start` is a run's folder or a SavedModel
    whose weights training begins with (`trainers.training.warm_start`), or `pushed`: the last model of this
    stage that was pushed when training begins.
    """

    # Keys that say where and at what intervals training runs; the result does not depend on them.
    OPERATIONAL: ClassVar[frozenset[str]] = frozenset(
        (
            "strategy",
            "tpu",
            "zero_stage",
            "steps_per_call",
            "log_every",
            "checkpoint_every",
            "checkpoint_minutes",
            "keep_checkpoints",
            "export",
        )
    )

    steps: PositiveInt
    batch_size: PositiveInt
    optimizer: Optimizer
    gradient_accumulation_steps: PositiveInt = 1
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    blockwise_attention: bool = False
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"] = "auto"
    tpu: Tpu = Tpu()
    zero_stage: Literal[0, 1] = 0
    steps_per_call: PositiveInt = 10
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 500
    checkpoint_minutes: Positive | None = None
    keep_checkpoints: PositiveInt = 2
    export: Literal["best", "last"] = "last"
    warm_start: Annotated[str, Field(min_length=1)] | None = None
    jit_compile: bool = False

    @property
    def memory(self) -> Memory:
        """How the network's Transformer blocks save memory."""
        return Memory(self.gradient_checkpointing, self.blockwise_attention)

    @pydantic.model_validator(mode="after")
    def _numbers_fit_together(self) -> Train:
        for key in ("log_every", "checkpoint_every"):
            if getattr(self, key) % self.steps_per_call:
                raise ValueError(
                    f"{key} must be a multiple of steps_per_call {self.steps_per_call}, "
                    f"got {getattr(self, key)}"
                )
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                "batch_size must be a multiple of gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}, got {self.batch_size}"
            )
        if self.jit_compile and self.strategy not in ("auto", "one_device"):
            raise ValueError(
                f"jit_compile must be false for strategy {self.strategy}, which compiles by itself or not at "
                "all, got true"
            )
        self.optimizer.check_length("optimizer", self.steps, of="steps")
        return self


class Job(Section):
    """The part of the whole run's configuration that every trainer gets beside its own section.

    `code` is the fingerprint of the code that trains, and `start` that of the weights of `train.warm_start`;
    `label` is for people, in the names of folders.
    """

    preset: str
    seed: Count
    image_size: PositiveInt
    augmentation: Augmentation
    checkpoints: str
    logs: str
    ground: str = WHITE
    max_image_pixels: int = MAX_PIXELS
    code: str = ""
    start: str = ""
    label: str = ""
