"""ZeRO stage 1: each replica keeps its share of Adam's slots and of the EMA (Rajbhandari et al. 2019, 5.1).

A variable is flattened, padded with zeros to a multiple of the number of replicas, and cut into a share for
each. In a step every replica has the mean gradient, updates its own share of a weight with its own share of
the slots, and gathers the shares of all. Adam, weight decay and the average work on each number by itself, so
the result is that of the unsharded step.

Gradients are summed whole and cut afterwards, because TensorFlow offers no reduce-scatter to a strategy. A
step thus sends half as much again as without shards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainers.training.config import Optimizer
from trainers.training.optimizer import DecoupledOptimizer, adam_arguments


def share_size(shape: tuple[int, ...], replicas: int) -> int:
    """The numbers that each replica keeps of a variable."""
    return -(-math.prod(shape) // replicas)


def own_share(x: tf.Tensor, replica: tf.Tensor | int) -> tf.Tensor:
    """The share of a replica (counted from 0) of a whole variable of any shape, [K]."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    x = tf.reshape(x, [-1])
    size = share_size(x.shape, replicas)
    padded = tf.pad(x, [[0, replicas * size - x.shape[0]]])
    return tf.slice(padded, [replica * size], [size])


def gather(shares: Sequence[tf.Tensor], shapes: Sequence[tuple[int, ...]]) -> list[tf.Tensor]:
    """Whole variables of these shapes from the shares [K] of all replicas; call it in replica context."""
    # Tensors of this replica's device: what is read from a variable may have none with several workers.
    own = [tf.identity(share) for share in shares]
    every = tf.distribute.get_replica_context().all_gather(own, axis=0)
    return [tf.reshape(x[: math.prod(shape)], shape) for x, shape in zip(every, shapes, strict=True)]


class ShardedVariable:
    """A variable of which each replica has its share.

    To a checkpoint it is the whole variable: it can be restored on another number of replicas, or unsharded.
    Reading and assigning it takes all replicas, in cross-replica context.

    Attributes:
      shares: float [K], another on each replica.
      shape: of the whole variable.
    """

    def __init__(self, shares: keras.Variable, shape: tuple[int, ...]):
        self.shares = shares
        self.shape = shape
        self._strategy = tf.distribute.get_strategy()
        # Functions, because a TPU runs nothing else.
        self._read = tf.function(self._gathered, autograph=False)
        self._write = tf.function(self._assigned, autograph=False)

    @property
    def value(self) -> tf.Tensor:
        """The whole variable, of `shape`."""
        return self._read()

    def numpy(self) -> Any:
        """The whole variable as an array."""
        return self.value.numpy()

    def assign(self, value: Any) -> None:
        """Give each replica its share of a whole variable."""
        self._write(tf.convert_to_tensor(value, self.shares.dtype))

    def _gathered(self) -> tf.Tensor:
        whole = self._strategy.run(lambda: gather([self.shares.value], [self.shape])[0])
        return self._strategy.experimental_local_results(whole)[0]

    def _assigned(self, value: tf.Tensor) -> None:
        def assign(value: tf.Tensor) -> None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            self.shares.value.assign(own_share(value, replica))

        self._strategy.run(assign, args=(value,))


def sharded_variable(value: tf.Tensor, name: str) -> ShardedVariable:
    """A sharded variable that is not trained, with the value of a whole one."""
    shares = _zeros(value, name)
    variable = ShardedVariable(shares, tuple(value.shape))
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

    def __init__(self, *args: Any, made: Callable[[keras.Variable, keras.Variable], None], **options: Any):
        super().__init__(*args, **options)
        self._made = made

    def add_variable_from_reference(
        self, reference_variable: keras.Variable, *args: Any, **options: Any
    ) -> keras.Variable:
        """Make a slot of a variable, and tell of both."""
        with tf.variable_creator_scope(_of_each_replica):
            slot = super().add_variable_from_reference(reference_variable, *args, **options)
        self._made(slot, reference_variable)
        return slot


class ShardedOptimizer:
    """Adam with clipping and decoupled weight decay, its slots sharded among the replicas.

    Each replica also has a copy of its share of the weights, which Keras' update rule works on.
    """

    def __init__(self, options: Optimizer, steps: int, trainable_variables: list[keras.Variable]):
        self.trainable_variables = trainable_variables
        # By their weights' names, which decide about weight decay.
        self._shares = [_zeros(weight.value, weight.name) for weight in trainable_variables]
        weights = {id(share): weight for share, weight in zip(self._shares, trainable_variables, strict=True)}
        slots: dict[int, keras.Variable] = {}
        adam = _AdamOnShares(
            **adam_arguments(options, steps),
            made=lambda slot, share: slots.update({id(slot): weights[id(share)]}),
        )
        self._optimizer = DecoupledOptimizer(options, steps, self._shares, adam)
        self.variables = [
            ShardedVariable(variable, tuple(slots[id(variable)].shape)) if id(variable) in slots else variable
            for variable in self._optimizer.variables
        ]

    @property
    def iterations(self) -> tf.Tensor:
        """How often gradients were applied, int64 scalar."""
        return self._optimizer.iterations

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
        return gather(shares, [tuple(weight.shape) for weight in self.trainable_variables])

    def apply_weights(self, weights: list[tf.Tensor]) -> None:
        """Assign what `compute_updates` returned; call it in cross-replica context."""
        strategy = tf.distribute.get_strategy()
        for variable, weight in zip(self.trainable_variables, weights, strict=True):
            strategy.extended.update(
                variable.value, lambda v, new: v.assign(new), args=(weight,), group=False
            )
        self._optimizer.count()
