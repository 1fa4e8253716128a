"""Which devices train: one, several of one host, several hosts, or a TPU."""

from __future__ import annotations

import functools
import json
import os

import tensorflow as tf

from trainers.training.config import Tpu, Train
from trainers.training.errors import TrainingError


def open_strategy(train: Train) -> tf.distribute.Strategy:
    """The strategy that the configuration names, its devices made ready.

    `auto` takes the TPU where `TPU_NAME` is set, several hosts where `TF_CONFIG` names more than one
    worker, the GPUs of this host where there are two or more, and one device otherwise. Several hosts and a
    TPU want to be opened before TensorFlow has done anything else in this process.

    Raises:
      TrainingError: the devices cannot be had, or the batch cannot be shared out evenly.
    """
    kind = _choose() if train.strategy == "auto" else train.strategy
    if train.jit_compile and kind != "one_device":
        raise TrainingError(f"jit_compile is for one device, and the strategy here is {kind}")
    try:
        strategy = _open(kind, train.tpu)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        raise TrainingError(f"strategy {kind}: {' '.join(str(error).split())}") from error
    shares = strategy.num_replicas_in_sync * train.accumulate
    if train.batch_size % shares:
        raise TrainingError(
            f"batch_size {train.batch_size} is not a multiple of {shares}: "
            f"{strategy.num_replicas_in_sync} replicas, each in {train.accumulate} parts (accumulate)"
        )
    return strategy


def is_chief() -> bool:
    """Whether this process is the one that writes logs, history and the exported model."""
    resolver = tf.distribute.get_strategy().cluster_resolver
    if resolver is None or not _worker_hosts():
        return True
    return (resolver.task_type, resolver.task_id) in (("chief", 0), ("worker", 0)) and not (
        resolver.task_type == "worker" and "chief" in resolver.cluster_spec().jobs
    )


@functools.cache
def _open(kind: str, tpu: Tpu) -> tf.distribute.Strategy:
    """Once a process: a second one would count its collective operations anew, and meet the first's."""
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
    # Named in full: left to itself, MirroredStrategy takes one CPU where there is no GPU.
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices(kind)])


def _multi_worker(tpu: Tpu) -> tf.distribute.Strategy:
    if len(_worker_hosts()) < 2:
        raise ValueError("TF_CONFIG names fewer than two workers")
    return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu(tpu: Tpu) -> tf.distribute.Strategy:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
        tpu=tpu.name, zone=tpu.zone, project=tpu.project
    )
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


_OPEN = {"one_device": _one_device, "mirrored": _mirrored, "multi_worker": _multi_worker, "tpu": _tpu}
