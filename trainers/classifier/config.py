"""Configuration of the domain classifier."""

from __future__ import annotations

from pydantic import PositiveInt

from trainers.training.config import Section, Train


class Model(Section):
    """ResNet for small images (He et al. 2016, section 4.2): 6 `blocks_per_stage` + 2 layers."""

    blocks_per_stage: PositiveInt = 3
    width: PositiveInt = 16


class Classifier(Section):
    """The classifier and its training."""

    model: Model = Model()
    train: Train
