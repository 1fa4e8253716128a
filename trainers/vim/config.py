"""Configuration of the image model, VIM (section 4, Table 2)."""

from __future__ import annotations

from trainers.training.config import Fraction, Section, Train, Transformer


class Model(Section):
    """A decoder-only Transformer over image tokens.

    `label_drop` is the share of training rows that start without their class. It teaches the start
    that the linear probe and guidance need; without it a class-conditional model knows neither.
    """

    transformer: Transformer
    dropout: Fraction = 0.1
    class_conditional: bool = True
    label_drop: Fraction = 0.1


class Stage2(Section):
    """The image model and its training."""

    model: Model
    train: Train
