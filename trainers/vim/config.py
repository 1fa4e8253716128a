"""Configuration of the image model, VIM (section 4, Table 2)."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import PositiveInt

from trainers.training.config import Count, Fraction, Precision, Section, Train, Transformer


class RandomOrder(Section):
    """Random-order annealing (RAR, Yu et al. 2024).

    The probability that a training row has its tokens in a random order is 1 until step `anneal_from`, falls
    linearly, and is 0 from step `anneal_until` on, so that training ends in raster order.
    """

    anneal_from: Count
    anneal_until: PositiveInt

    @pydantic.model_validator(mode="after")
    def _falls(self) -> RandomOrder:
        if self.anneal_until <= self.anneal_from:
            raise ValueError(
                f"anneal_until must be above anneal_from {self.anneal_from}, got {self.anneal_until}"
            )
        return self


class Model(Section):
    """A decoder-only Transformer over image tokens.

    `class_dropout` is the share of training rows that start without their class. It trains the start that
    classifier-free guidance and the linear probe use; a class-conditional model needs it for both. `qk_norm`
    normalizes queries and keys in every attention.
    """

    transformer: Transformer
    dropout: Fraction = 0.1
    class_conditional: bool = True
    class_dropout: Fraction = 0.1
    qk_norm: bool = False
    random_order: RandomOrder | None = None


class Sampler(Section):
    """How the exported model draws tokens.

    Attributes:
      engine: `jacobi`, several places of few images in a pass; or `sequential`, one place after the other.
        Both give the same tokens.
      max_slots: rows of a pass at most; larger batches are drawn in groups.
      jacobi_slots: rows of a pass with which places of few images are filled up.
      weights: precision of the blocks' products. `bfloat16` reads half as many bytes.
      cache: precision of keys and values.
      compiled: export beside the model the program that draws on TPUs, and on GPUs by XLA; as large again.
      compiled_slots: rows of a pass of that program with which places of few images are filled up.
    """

    engine: Literal["jacobi", "sequential"] = "jacobi"
    max_slots: Literal[16, 32, 64, 128] = 64
    jacobi_slots: Literal[8, 16, 32] = 8
    weights: Precision = "float32"
    cache: Precision = "float32"
    compiled: bool = False
    compiled_slots: PositiveInt = 128


class Stage2(Section):
    """The image model and its training.

    Tokens are `cached`: computed once by TokenTransform. Or `on_the_fly`: computed in the training step from
    a new crop each time, an unlimited number of variants for one encoder pass a step; the section `tokens` is
    then not used.

    Attributes:
      logged_samples: images that are sampled at every evaluation for TensorBoard, of classes in turn and the
        same seeds, by the exported model's sampler, which needs a CPU or a GPU; 0 for none.
    """

    model: Model
    tokens: Literal["cached", "on_the_fly"] = "cached"
    train: Train
    sampler: Sampler = Sampler()
    logged_samples: Count = 0

    @pydantic.model_validator(mode="after")
    def _logs_samples_where_it_can_draw(self) -> Stage2:
        if self.logged_samples and self.train.strategy == "tpu":
            raise ValueError(f"logged_samples must be 0 for train.strategy tpu, got {self.logged_samples}")
        return self

    @pydantic.model_validator(mode="after")
    def _ends_in_raster_order(self) -> Stage2:
        order = self.model.random_order
        if order and order.anneal_until > self.train.steps:
            raise ValueError(
                f"model.random_order.anneal_until must be at most train.steps {self.train.steps}, got "
                f"{order.anneal_until}: images are sampled in raster order, so training must end in it"
            )
        return self
