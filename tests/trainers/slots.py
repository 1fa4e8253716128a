"""Bytes of the optimizer slots of a built network."""

from __future__ import annotations

import keras

from trainers.training.config import Optimizer
from trainers.training.optimizer import DecoupledOptimizer


def adafactor_bytes(network: keras.Layer) -> int:
    """Bytes of Adafactor's slots for all trainable variables of a network, without the step counter."""
    options = Optimizer(name="adafactor", learning_rate=0.1)
    optimizer = DecoupledOptimizer(options, 10, network.trainable_variables)
    _iterations, *slots = optimizer.variables
    return sum(slot.numpy().nbytes for slot in slots)
