"""ZeRO stage 1: each replica keeps its share of Adam's slots and of the EMA (Rajbhandari et al. 2019, 5.1).

A variable is flattened, padded with zeros to a multiple of the number of replicas, and cut into a share for
each. In a step every replica has the mean gradient, updates its own share of a weight with its own share of
the slots, and gathers the shares of all. Adam, weight decay and the average work on each number by itself, so
the result is that of the unsharded step.

Gradients are summed whole and cut afterwards, because TensorFlow offers no reduce-scatter to a strategy. A
step thus sends half as much again as without shards; on a TPU twice as much, because its gather is a sum.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.training.config import Optimizer
from trainers.training.optimizer import DecoupledOptimizer, adam_arguments


def share_size(shape: Sequence[int], replicas: int) -> int:
    """The numbers that each replica keeps of a variable."""
    return -(-math.prod(shape) // replicas)


def own_share(x: tf.Tensor, replica: tf.Tensor | int, replicas: int | None = None) -> tf.Tensor:
    """The share of a replica (counted from 0) of a whole variable of any shape, [K]."""
    replicas = replicas or tf.distribute.get_strategy().num_replicas_in_sync
    size = share_size(tuple(x.shape), replicas)
    numbers = tf.reshape(x, [-1])
    padded = tf.pad(numbers, [[0, replicas * size - numbers.shape[0]]])
    return tf.slice(padded, [replica * size], [size])


def gather(shares: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The shares [K] of all replicas one after the other, [replicas * K]; call it in replica context."""
    # Tensors of this replica's device: with several workers, variables and arguments may have none.
    own = [tf.identity(share) for share in shares]
    return tf.distribute.get_replica_context().all_gather(own, axis=0)


def _whole(numbers: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """The variable whose shares are these, one after the other."""
    return tf.reshape(numbers[: math.prod(shape)], shape)


class ShardedVariable:
    """A variable of which each replica has its share.

    To a checkpoint it is the whole variable: it can be restored on another number of replicas, or unsharded.
    Read and assign it in cross-replica context. With several workers all of them must read it.

    Attributes:
      shares: float [K], another on each replica.
      shape: of the whole variable.
      dtype: of both.
    """

    def __init__(self, shares: keras.Variable, shape: Sequence[int]):
        self.shares = shares
        self.shape = tuple(shape)
        self.dtype = shares.dtype
        self._strategy = tf.distribute.get_strategy()

    @property
    def value(self) -> tf.Tensor:
        """The whole variable, of `shape`."""
        parts = self._parts
        if len(parts) == self._strategy.num_replicas_in_sync:
            return _whole(tf.concat(parts, axis=0), self.shape)
        own = dict(zip(_own_replicas(self._strategy), parts, strict=True))
        of_each = self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.identity(own[context.replica_id_in_sync_group])
        )
        return _whole(_gather_from_workers(self._strategy)(of_each), self.shape)

    def numpy(self) -> np.ndarray:
        """The whole variable as an array."""
        return self.value.numpy()

    def assign(self, value: Any) -> None:
        """Give each replica its share of a whole variable.

        Raises:
          ValueError: it has another shape.
        """
        whole = tf.convert_to_tensor(value, self.dtype)
        if tuple(whole.shape) != self.shape:
            raise ValueError(f"value must have the shape {self.shape}, got {tuple(whole.shape)}")
        replicas = self._strategy.num_replicas_in_sync
        for replica, part in zip(_own_replicas(self._strategy), self._parts, strict=True):
            part.assign(own_share(whole, replica, replicas))

    @property
    def _parts(self) -> tuple[tf.Variable, ...]:
        """The shares of this process's replicas."""
        return self._strategy.experimental_local_results(self.shares.value)


@functools.cache
def _own_replicas(strategy: tf.distribute.Strategy) -> tuple[int, ...]:
    """The numbers of this process's replicas.

    For one variable after the other they replace `strategy.run`, which starts a thread for each replica and,
    in Python 3.13, mostly waits a second for its end (`Coordinator.join` looks once a second).
    """
    numbers = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(context.replica_id_in_sync_group)
    )
    return tuple(int(number) for number in strategy.experimental_local_results(numbers))


@functools.cache
def _gather_from_workers(strategy: tf.distribute.Strategy) -> Callable[[Any], tf.Tensor]:
    """A function from the shares of this worker's replicas to those of all, [replicas * K]."""

    def gathered(share: tf.Tensor) -> tf.Tensor:
        return gather([share])[0]

    # One graph for shares of all sizes.
    @tf.function(reduce_retracing=True)
    def of_all(of_each: Any) -> tf.Tensor:
        return strategy.experimental_local_results(strategy.run(gathered, args=(of_each,)))[0]

    return of_all


def sharded_variable(value: tf.Tensor, name: str) -> ShardedVariable:
    """A sharded variable that is not trained, with the value of a whole one."""
    variable = ShardedVariable(_zeros(value, name), value.shape)
    variable.assign(value)
    return variable


def _zeros(whole: tf.Tensor, name: str) -> keras.Variable:
    size = share_size(tuple(whole.shape), tf.distribute.get_strategy().num_replicas_in_sync)
    with tf.variable_creator_scope(_of_each_replica):
        return keras.Variable(tf.zeros([size], whole.dtype), trainable=False, name=name)


def _of_each_replica(next_creator: Any, **options: Any) -> tf.Variable:
    """Make a variable that each replica writes by itself, instead of a mirrored one."""
    own = {
        "synchronization": tf.VariableSynchronization.ON_READ,
        "aggregation": tf.VariableAggregation.NONE,
    }
    return next_creator(**{**options, **own})


class _AdamOnShares(keras.optimizers.Adam):
    """Adam whose slots belong to each replica by itself, as the variables that it updates do."""

    def __init__(self, slots: dict[int, int], **options: Any):
        super().__init__(**options)
        # A function: Keras would track a dictionary.
        self._remember = slots.__setitem__

    def add_variable_from_reference(
        self, reference_variable: keras.Variable, *args: Any, **options: Any
    ) -> keras.Variable:
        """Make a slot of a variable, and remember of which, by their `id`."""
        with tf.variable_creator_scope(_of_each_replica):
            slot = super().add_variable_from_reference(reference_variable, *args, **options)
        self._remember(id(slot), id(reference_variable))
        return slot


class ShardedOptimizer:
    """Adam with clipping and decoupled weight decay, its slots sharded among the replicas.

    Each replica also has a copy of its share of the weights, which Keras' update rule works on.
    """

    def __init__(self, options: Optimizer, steps: int, trainable_variables: list[keras.Variable]):
        self.trainable_variables = trainable_variables
        # By their weights' names, which decide about weight decay.
        self._shares = [_zeros(weight.value, weight.name) for weight in trainable_variables]
        slots: dict[int, int] = {}
        adam = _AdamOnShares(slots, **adam_arguments(options, steps))
        self._optimizer = DecoupledOptimizer(options, steps, self._shares, adam)
        shapes = {
            id(share): weight.shape for share, weight in zip(self._shares, trainable_variables, strict=True)
        }
        self.variables = [
            ShardedVariable(variable, shapes[slots[id(variable)]]) if id(variable) in slots else variable
            for variable in self._optimizer.variables
        ]

    @property
    def iterations(self) -> tf.Tensor:
        """How often gradients were applied, int64 scalar."""
        return self._optimizer.iterations

    @property
    def learning_rate(self) -> tf.Tensor:
        """The rate of the next step, scalar."""
        return self._optimizer.learning_rate

    def compute_updates(
        self, gradients: list[tf.Tensor], norm: tf.Tensor, ready: tf.Tensor
    ) -> list[tf.Tensor]:
        """Update each replica's share and return the new weights, whole; call it in replica context.

        If not `ready`, nothing is updated, and what is returned means nothing.
        """
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group

        def update() -> bool:
            for share, weight in zip(self._shares, self.trainable_variables, strict=True):
                share.value.assign(own_share(weight.value, replica))
            rate, scale = self._optimizer.learning_rate, self._optimizer.scale(norm)
            for share, gradient in zip(self._shares, gradients, strict=True):
                self._optimizer.update(share, own_share(gradient, replica), rate, scale)
            return True  # tf.cond wants a value

        # No collective operation inside: those need all replicas on the same path.
        tf.cond(ready, update, lambda: False)
        shares = [share.value for share in self._shares]
        return [
            _whole(numbers, tuple(weight.shape))
            for numbers, weight in zip(gather(shares), self.trainable_variables, strict=True)
        ]

    def apply_updates(self, weights: list[tf.Tensor], norm: tf.Tensor) -> None:
        """Assign what `compute_updates` returned; call it in cross-replica context."""
        strategy = tf.distribute.get_strategy()
        for variable, weight in zip(self.trainable_variables, weights, strict=True):
            strategy.extended.update(
                variable.value, lambda v, new: v.assign(new), args=(weight,), group=False
            )
        self._optimizer.count()
