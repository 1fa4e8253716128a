"""Metrics on held-out examples during training, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import tensorflow as tf

from trainers.training.config import Train
from trainers.training.step import Batch, Metrics
from trainers.training.train_state import TrainState, ema_weights


def held_out_metrics(
    losses: Callable[[Batch], Metrics],
    examples: Batch,
    train: Train,
    states: Sequence[TrainState],
    *,
    summarize: Callable[[Metrics], Metrics] = lambda metrics: metrics,
) -> Callable[[], Metrics]:
    """Build a function that returns the mean metrics over `examples`, with EMA weights if there are any.

    Args:
      losses: from a batch to metrics of any shape, means over its examples.
      examples: all held-out examples, as one batch in memory.
      train: how many examples a device computes at once.
      states: the networks that `losses` runs.
      summarize: mean metrics to scalars.
    """
    count = len(next(iter(examples.values())))
    strategy = tf.distribute.get_strategy()
    at_once = train.batch_size // (strategy.num_replicas_in_sync * train.gradient_accumulation_steps)

    @partial(tf.function, autograph=False)
    def on_device(batch: Batch) -> Metrics:
        results = strategy.run(losses, args=(batch,))
        return tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], results)

    def evaluate() -> Metrics:
        means: Metrics = {}
        with ema_weights(states):
            for start in range(0, count, at_once):
                batch = {name: x[start : start + at_once] for name, x in examples.items()}
                share = len(next(iter(batch.values()))) / count
                for name, value in on_device(batch).items():
                    means[name] = means.get(name, 0.0) + share * value
        return summarize(means)

    return evaluate


def averaged_pictures(
    draw: Callable[[], Mapping[str, tf.Tensor]], states: Sequence[TrainState]
) -> Callable[[], Mapping[str, tf.Tensor]]:
    """Build a function that makes pictures with EMA weights if there are any, on every replica alike.

    Args:
      draw: makes images [K, H, W, 3] in [0, 1] by name; traced once.
      states: the networks that it runs.
    """
    strategy = tf.distribute.get_strategy()

    @partial(tf.function, autograph=False)
    def on_device() -> Mapping[str, tf.Tensor]:
        return tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], strategy.run(draw))

    def pictures() -> Mapping[str, tf.Tensor]:
        with ema_weights(states):
            return on_device()

    return pictures
