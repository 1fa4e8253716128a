"""TrainState: one network in training, with its optimizer and its EMA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import keras
import numpy as np
import tensorflow as tf

from trainers.training.checkpoint import Saved
from trainers.training.config import Optimizer, Train
from trainers.training.ema import ExponentialMovingAverage
from trainers.training.optimizer import DecoupledOptimizer
from trainers.training.sharding import ShardedOptimizer

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
      metrics_prefix: of this network's metrics: `gradient_norm`, `learning_rate`.
    """

    def __init__(
        self,
        network: keras.Model,
        train: Train,
        optimizer: Optimizer | None = None,
        *,
        use_ema: bool = True,
        start_step: int = 0,
        metrics_prefix: str = "",
    ):
        self.start_step = start_step
        self._prefix = metrics_prefix
        options = optimizer or train.optimizer
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        sharded = train.zero_stage == 1 and replicas > 1
        # Adafactor keeps a byte a weight, and its means go over whole rows and columns.
        kind = ShardedOptimizer if sharded and options.name == "adam" else DecoupledOptimizer
        self.optimizer = kind(options, train.steps - start_step, network.trainable_variables)
        decay = train.ema_decay if use_ema else None
        self.ema = ExponentialMovingAverage(network.variables, decay, sharded=sharded) if decay else None
        # Written by the forward pass: the moving statistics of batch norm.
        self.statistics = [v for v in network.non_trainable_variables if v.dtype.startswith("float")]
        self.network = network

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """The weights that gradients are taken for."""
        return self.optimizer.trainable_variables

    @property
    def variables(self) -> list[Saved]:
        """Everything that a checkpoint holds of this network."""
        ema = self.ema.variables if self.ema else []
        return [*self.network.variables, *self.optimizer.variables, *ema]

    def metrics(self, norm: tf.Tensor) -> dict[str, tf.Tensor]:
        """What is logged of a step whose gradients have this global norm, before it is applied."""
        own = {"gradient_norm": norm, "learning_rate": tf.cast(self.optimizer.learning_rate, tf.float32)}
        return {f"{self._prefix}{name}": value for name, value in own.items()}

    def start_from(self, values: Sequence[np.ndarray]) -> None:
        """Take the values of all variables of the network, and begin its EMA with them."""
        for variable, value in zip(self.network.variables, values, strict=True):
            variable.assign(value)
        if self.ema:
            self.ema.restart()

    def compute_updates(self, gradients: Gradients, norm: tf.Tensor, ready: tf.Tensor) -> Gradients:
        """What `apply_updates` takes: the gradients, or with sharded slots new weights.

        Call it in replica context. `norm` is the global norm; nothing changes if not `ready`.
        """
        return self.optimizer.compute_updates(gradients, norm, ready)

    def apply_updates(self, updates: Gradients, norm: tf.Tensor, replica: tf.Tensor | int) -> None:
        """Update weights and EMA; call it in cross-replica context.

        Args:
          updates: from `compute_updates`.
          norm: the global norm of the gradients.
          replica: each replica's number.
        """
        self.optimizer.apply_updates(updates, norm)
        if self.ema:
            self.ema.update(self.optimizer.iterations, replica)


@contextmanager
def ema_weights(states: Sequence[TrainState]) -> Iterator[None]:
    """Run every network that has an EMA with its averaged weights while the context lasts."""
    with ExitStack() as stack:
        for state in states:
            if state.ema:
                stack.enter_context(state.ema.swapped_in())
        yield
