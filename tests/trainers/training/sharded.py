"""Train a small network with and without ZeRO, as a program: a process has one strategy.

    python -m tests.trainers.training.sharded FOLDER 4
    python -m tests.trainers.training.sharded FOLDER 2

The first trains on 4 logical devices in both ways, and goes on from each one's checkpoint in the other way.
The second goes on from the checkpoint of shards on 2 devices and on one. Each writes every variable after a
training to FOLDER/<name>.npz; the first writes to FOLDER/sizes.json how many numbers one replica keeps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from trainers.training.checkpoint import Checkpointer
from trainers.training.config import Optimizer, Train
from trainers.training.sharding import ShardedVariable
from trainers.training.step import loss_gradients, training_step
from trainers.training.train_state import TrainState

STEPS, BATCH = 4, 8
# Of the second step the loss is not finite.
SKIPPED = 1


def batch_of(step: int) -> tf.Tensor:
    """The images of a step, float32 [BATCH, 7]."""
    images = tf.random.stateless_normal([BATCH, 7], seed=[0, step])
    return images * np.inf if step == SKIPPED else images


class Scale(keras.layers.Layer):
    """Multiplies by a weight that is not trained."""

    def build(self, shape):
        """Make the weight, all 0.5."""
        self.scale = self.add_weight(
            shape=(shape[-1],), initializer=lambda *a, **o: 0.5 * tf.ones(5), trainable=False
        )

    def call(self, x):
        """Multiply."""
        return x * self.scale


class Training:
    """A network whose variables are no multiples of the number of replicas, in training on some devices."""

    def __init__(self, strategy: tf.distribute.Strategy, *, zero_stage: int):
        self.strategy = strategy
        optimizer = Optimizer(learning_rate=0.1, weight_decay=0.01, clip_norm=0.5)
        train = Train(steps=10, batch_size=BATCH, ema_decay=0.9, zero_stage=zero_stage, optimizer=optimizer)
        with self.strategy.scope():
            keras.utils.set_random_seed(1)
            layers = [keras.layers.Dense(5), Scale(), keras.layers.Dense(1, use_bias=False)]
            network = keras.Sequential(layers)
            network.build([None, 7])
            self.state = TrainState(network, train)
            second = keras.Sequential([keras.layers.Dense(1)])
            second.build([None, 7])
            self.late = TrainState(second, train, start_step=1)
        self.states = [self.state, self.late]

    def step(self, number: int) -> None:
        """Make one step."""

        def gradients(batch):
            results = [
                loss_gradients(state, lambda batch, state=state: self._losses(state, batch))(batch)
                for state in self.states
            ]
            return [own for (own,), _ in results], results[0][1]

        step = training_step(self.states, gradients)

        @tf.function(autograph=False)
        def run():
            images = batch_of(number)
            share = BATCH // self.strategy.num_replicas_in_sync

            def one(start):
                return step({"x": tf.slice(images, [start, 0], [share, 7])})

            starts = self.strategy.experimental_distribute_values_from_function(
                lambda replica: tf.constant(replica.replica_id_in_sync_group * share)
            )
            return self.strategy.run(one, args=(starts,))

        with self.strategy.scope():
            run()

    @staticmethod
    def _losses(state, batch):
        outputs = state.network(batch["x"])
        return {"loss": tf.reduce_mean((outputs - tf.reduce_sum(batch["x"], 1, keepdims=True)) ** 2)}

    def checkpointer(self, folder: Path) -> Checkpointer:
        """Of all variables."""
        variables = {str(index): state.variables for index, state in enumerate(self.states)}
        return Checkpointer(variables, str(folder), keep=2)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every variable, and the averages once more as the network gets them."""
        with self.strategy.scope():
            values = [variable.numpy() for state in self.states for variable in state.variables]
            with self.state.ema.swapped_in():
                values += [variable.numpy() for variable in self.state.network.variables]
            values += [variable.numpy() for variable in self.state.network.variables]
        return {str(index): value for index, value in enumerate(values)}

    def kept(self) -> tuple[int, int]:
        """How many numbers a replica keeps of slots and averages, and how many they are whole."""
        sharded = [v for v in self.state.variables if isinstance(v, ShardedVariable)]
        return sum(int(v.shares.shape[0]) for v in sharded), sum(int(np.prod(v.shape)) for v in sharded)


def whole_and_sharded(folder: Path, strategy: tf.distribute.Strategy) -> None:
    """Train in both ways, and write checkpoints of step 3."""
    for zero_stage, name in enumerate(["whole", "shards"]):
        training = Training(strategy, zero_stage=zero_stage)
        for number in range(STEPS):
            training.step(number)
            if number == 2:
                with strategy.scope():
                    checkpointer = training.checkpointer(folder / f"checkpoints-{name}")
                    checkpointer.save(number + 1, tf.constant(0.0), best=0)
                    checkpointer.finish()
        np.savez(folder / f"{name}.npz", **training.arrays())
    (folder / "sizes.json").write_text(json.dumps(training.kept()))


def resumed(folder: Path, saved: str, strategy: tf.distribute.Strategy, *, zero_stage: int) -> None:
    """Make the last step from a checkpoint."""
    training = Training(strategy, zero_stage=zero_stage)
    with strategy.scope():
        assert training.checkpointer(folder / f"checkpoints-{saved}").restore() == 3
    training.step(3)
    name = f"{saved}-{strategy.num_replicas_in_sync}-{zero_stage}"
    np.savez(folder / f"{name}.npz", **training.arrays())


def main(folder: Path, devices: int) -> None:
    """Train on so many devices."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    names = [device.name for device in tf.config.list_logical_devices("CPU")]
    strategy = tf.distribute.MirroredStrategy(names)
    if devices == 4:
        whole_and_sharded(folder, strategy)
        resumed(folder, "shards", strategy, zero_stage=0)
        resumed(folder, "whole", strategy, zero_stage=1)
    else:
        resumed(folder, "shards", strategy, zero_stage=1)
        resumed(folder, "shards", tf.distribute.get_strategy(), zero_stage=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
