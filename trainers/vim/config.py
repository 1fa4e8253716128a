"""Configuration of the image model, VIM (section 4, Table 2)."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import PositiveInt

from trainers.training.config import Count, Fraction, Section, Train, Transformer


class RandomOrder(Section):
    """Random-order annealing (RAR, Yu et al. 2024).

    A training row has its tokens in an order of its own with a probability that is 1 until step
    `anneal_from`, falls linearly, and is 0 from step `anneal_until` on. Raster order stands at the end.
    """

    anneal_from: Count
    anneal_until: PositiveInt

    @pydantic.model_validator(mode="after")
    def _falls(self) -> RandomOrder:
        if self.anneal_until <= self.anneal_from:
            raise ValueError(f"anneal_until {self.anneal_until} is not above anneal_from {self.anneal_from}")
        return self


class Model(Section):
    """A decoder-only Transformer over image tokens.

    `label_drop` is the share of training rows that start without their class. It teaches the start
    that the linear probe and guidance need; without it a class-conditional model knows neither.
    `qk_norm` normalizes queries and keys in every attention.
    """

    transformer: Transformer
    dropout: Fraction = 0.1
    class_conditional: bool = True
    label_drop: Fraction = 0.1
    qk_norm: bool = False
    random_order: RandomOrder | None = None


class Stage2(Section):
    """The image model and its training.

    Its tokens are `cached`, once and for all by TokenTransform, or made `on_the_fly` in the training step
    from a crop that is new each time: endless variants, for one pass of the encoder a step. What the section
    `tokens` says is then of no concern.
    """

    model: Model
    tokens: Literal["cached", "on_the_fly"] = "cached"
    train: Train

    @pydantic.model_validator(mode="after")
    def _ends_in_raster_order(self) -> Stage2:
        order = self.model.random_order
        if order and order.anneal_until > self.train.steps:
            raise ValueError(
                f"model.random_order.anneal_until {order.anneal_until} is above train.steps "
                f"{self.train.steps}; images are drawn in raster order, so training has to end in it"
            )
        return self
