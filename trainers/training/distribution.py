"""Distribution strategies: one device, several on one host, several hosts, or a TPU."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable

import tensorflow as tf

from trainers.training.config import Tpu, Train
from trainers.training.errors import TrainingError


def open_strategy(train: Train) -> tf.distribute.Strategy:
    """Set up the devices and return the strategy that the configuration names.

    `auto` takes the TPU if `TPU_NAME` is set, several hosts if `TF_CONFIG` names more than one worker, the
    GPUs of this host if there are two or more, and one device otherwise. Several hosts and a TPU must be set
    up before TensorFlow has run anything else in this process.

    Raises:
      TrainingError: the devices are not available, or the batch cannot be split evenly.
    """
    kind = _choose() if train.strategy == "auto" else train.strategy
    if train.jit_compile and kind != "one_device":
        raise TrainingError(f"jit_compile must be false for strategy {kind}, got true")
    try:
        strategy = _open(kind, train.tpu)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        raise TrainingError(f"strategy {kind}: {' '.join(str(error).split())}") from error
    replicas, parts = strategy.num_replicas_in_sync, train.gradient_accumulation_steps
    if train.batch_size % (replicas * parts):
        raise TrainingError(
            f"batch_size must be a multiple of {replicas * parts} ({replicas} replicas, "
            f"{parts} gradient_accumulation_steps each), got {train.batch_size}"
        )
    return strategy


def is_chief() -> bool:
    """Whether this process writes logs, history and the exported model."""
    resolver = tf.distribute.get_strategy().cluster_resolver
    if resolver is None or not _worker_hosts():
        return True
    return (resolver.task_type, resolver.task_id) in (("chief", 0), ("worker", 0)) and not (
        resolver.task_type == "worker" and "chief" in resolver.cluster_spec().jobs
    )


def mean_over_workers(*values: float) -> list[float]:
    """The mean of each value over the hosts of `multi_worker`, float64; the values themselves on one host.

    All workers take part, and get the same.
    """
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return list(values)
    return _mean_over_replicas(strategy)(tf.constant(values, tf.float64)).numpy().tolist()


@functools.cache
def _mean_over_replicas(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    def reduced(own: tf.Tensor) -> tf.Tensor:
        # A tensor of each replica: a value that is the same on all cannot be reduced.
        own = tf.identity(own)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, own)

    @tf.function
    def means(own: tf.Tensor) -> tf.Tensor:
        return strategy.experimental_local_results(strategy.run(reduced, args=(own,)))[0]

    return means


@functools.cache
def _open(kind: str, tpu: Tpu) -> tf.distribute.Strategy:
    """One strategy a process: a second one would number its collective operations anew and clash."""
    return _OPEN[kind](tpu)


def _choose() -> str:
    if os.environ.get("TPU_NAME"):
        return "tpu"
    if len(_worker_hosts()) > 1:
        return "multi_worker"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one_device"


def _worker_hosts() -> list[str]:
    """The workers that TF_CONFIG names."""
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    return [*cluster.get("chief", []), *cluster.get("worker", [])]


def _one_device(tpu: Tpu) -> tf.distribute.Strategy:
    return tf.distribute.get_strategy()


def _mirrored(tpu: Tpu) -> tf.distribute.Strategy:
    # All devices by name: without names, MirroredStrategy takes one CPU if there is no GPU.
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices(kind)])


def _multi_worker(tpu: Tpu) -> tf.distribute.Strategy:
    if len(_worker_hosts()) < 2:
        raise ValueError(f"TF_CONFIG must name two workers or more, got {len(_worker_hosts())}")
    return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu(tpu: Tpu) -> tf.distribute.Strategy:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
        tpu=tpu.name, zone=tpu.zone, project=tpu.project
    )
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


_OPEN = {"one_device": _one_device, "mirrored": _mirrored, "multi_worker": _multi_worker, "tpu": _tpu}
