"""TrainState: one network in training, with its optimizer and its EMA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import keras
import numpy as np
import tensorflow as tf

from trainers.training.config import Optimizer, Train
from trainers.training.ema import ExponentialMovingAverage
from trainers.training.optimizer import DecoupledOptimizer

Gradients = list[tf.Tensor]


class TrainState:
    """A network in training: weights, optimizer, and the EMA if there is one.

    A network with a `start_step` is not trained before the first network of the run has made that many steps;
    its learning-rate schedule then spans the steps that are left.

    Args:
      network: built, with all its weights.
      train: length, EMA and default optimizer.
      optimizer: another optimizer than `train.optimizer`.
      use_ema: whether `train.ema_decay` applies to this network.
      start_step: when this network starts to train.
    """

    def __init__(
        self,
        network: keras.Model,
        train: Train,
        optimizer: Optimizer | None = None,
        *,
        use_ema: bool = True,
        start_step: int = 0,
    ):
        self.start_step = start_step
        self.optimizer = DecoupledOptimizer(
            optimizer or train.optimizer, train.steps - start_step, network.trainable_variables
        )
        decay = train.ema_decay if use_ema else None
        self.ema = ExponentialMovingAverage(network.variables, decay) if decay else None
        # Written by the forward pass: the moving statistics of batch norm.
        self.statistics = [v for v in network.non_trainable_variables if v.dtype.startswith("float")]
        self.network = network

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """The weights that gradients are taken for."""
        return self.optimizer.trainable_variables

    @property
    def variables(self) -> list[keras.Variable]:
        """Everything that a checkpoint holds of this network."""
        ema = self.ema.variables if self.ema else []
        return [*self.network.variables, *self.optimizer.variables, *ema]

    def start_from(self, values: Sequence[np.ndarray]) -> None:
        """Take the values of all variables of the network, and begin its EMA with them."""
        for variable, value in zip(self.network.variables, values, strict=True):
            variable.assign(value)
        if self.ema:
            self.ema.restart()

    def apply_gradients(self, gradients: Gradients, norm: tf.Tensor) -> None:
        """Update weights and EMA; `norm` is the global norm. Call it in cross-replica context."""
        self.optimizer.apply_gradients(gradients, norm)
        if self.ema:
            self.ema.update(self.optimizer.iterations)


@contextmanager
def ema_weights(states: Sequence[TrainState]) -> Iterator[None]:
    """Run every network that has an EMA with its averaged weights while the context lasts."""
    with ExitStack() as stack:
        for state in states:
            if state.ema:
                stack.enter_context(state.ema.swapped_in())
        yield
