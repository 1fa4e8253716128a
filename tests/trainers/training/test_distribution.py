"""Training is the same on one device, on several devices, and in several processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.trainers.examples import write_images
from trainers.training import distribution
from trainers.training.config import Optimizer, Train
from trainers.training.distribution import open_strategy
from trainers.training.errors import TrainingError

pytestmark = pytest.mark.slow


def start(folder: Path, strategy: str, *more: str, devices=1, micro_batches=1, cluster=None):
    arguments = [str(folder), strategy, str(devices), str(micro_batches), *more]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.trainers.training.replicas", *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_CONFIG": json.dumps(cluster or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(*folders: Path, more: tuple[str, ...] = ()) -> list[subprocess.Popen]:
    workers = [f"localhost:{free_port()}" for _ in range(2)]
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    clusters = [{"cluster": {"worker": workers}, "task": task} for task in tasks]
    hosts = zip(folders, clusters, strict=True)
    return [start(folder, "multi_worker", *more, cluster=cluster) for folder, cluster in hosts]


def finish(*processes: subprocess.Popen) -> None:
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-3000:]


def state(folder: Path, name: str = "alone") -> dict[str, np.ndarray]:
    with np.load(folder / f"state-{name}.npz") as arrays:
        return dict(arrays)


def assert_alike(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        values = one[name].astype("float64"), other[name].astype("float64")
        # Slots may be smaller than any fixed tolerance. A first moment in 8 bits that is halfway between two
        # levels may be rounded to either.
        small = min(1e-5, 1e-3 * np.abs(values[0]).max())
        np.testing.assert_allclose(
            *values, atol=1 if one[name].dtype == np.int8 else small, rtol=1e-5, err_msg=name
        )


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    write_images(folder / "images", records=20)
    finish(start(folder, "one_device"))
    return folder


def back_to_step_2(folder: Path) -> Path:
    """Cut a finished run back to its checkpoint of step 2."""
    (checkpoints,) = (folder / "checkpoints").iterdir()
    for path in checkpoints.glob("ckpt-4*"):
        path.unlink()
    return folder


def test_replicas_and_gradient_accumulation_equal_one_device(alone, tmp_path):
    shutil.copytree(alone / "images", tmp_path / "images")
    finish(start(tmp_path, "mirrored", devices=2, micro_batches=4))
    assert_alike(state(alone), state(tmp_path))
    # But each replica has its own dropout: the same rows have different outputs on each.
    assert len(np.unique(np.load(tmp_path / "dropped.npy"), axis=0)) == 2


@pytest.fixture(scope="module")
def two_workers(alone, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    shutil.copytree(alone / "images", folder / "images")
    finish(*start_two(folder, folder))
    return folder


def of_two(folder: Path) -> list[dict[str, np.ndarray]]:
    return [state(folder, f"worker-{index}") for index in range(2)]


def test_two_workers_train_alike_and_export_one_model(two_workers):
    assert_alike(*of_two(two_workers))
    assert (two_workers / "model" / "saved_model.pb").is_file()
    assert sorted(path.name for path in (two_workers / "run").iterdir()) == ["alarms.json", "history.jsonl"]


def test_two_workers_resume_exactly(two_workers, tmp_path):
    again = back_to_step_2(shutil.copytree(two_workers, tmp_path / "again"))
    finish(*start_two(again, again))
    for name, value in of_two(two_workers)[0].items():
        np.testing.assert_array_equal(value, of_two(again)[0][name], err_msg=name)


def test_two_workers_with_shards_go_on_from_a_checkpoint_without(two_workers, tmp_path):
    shards = back_to_step_2(shutil.copytree(two_workers, tmp_path / "shards"))
    finish(*start_two(shards, shards, more=("sharded",)))
    for whole, sharded in zip(of_two(two_workers), of_two(shards), strict=True):
        assert_alike(whole, sharded)


def test_workers_without_a_shared_checkpoint_folder_fail(alone, tmp_path):
    # Only one of the two hosts has a checkpoint.
    one = back_to_step_2(shutil.copytree(alone, tmp_path / "one"))
    shutil.copytree(alone / "images", tmp_path / "other" / "images")
    processes = start_two(one, tmp_path / "other")
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert all(process.returncode != 0 for process in processes)
    # The first worker to fail stops the other, perhaps before that one has reported its error.
    assert any("Workers found different checkpoints" in output for output in outputs)


def test_resume_after_a_kill_is_bit_exact(alone, tmp_path):
    shutil.copytree(alone / "images", tmp_path / "images")
    killed = start(tmp_path, "one_device", "killed")
    output, _ = killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL, output[-3000:]
    (checkpoints,) = (tmp_path / "checkpoints").iterdir()
    assert [path.name for path in checkpoints.glob("*.index")] == ["ckpt-2.index"]
    finish(start(tmp_path, "one_device"))

    whole, resumed = state(alone), state(tmp_path)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def settings(**options) -> Train:
    return Train(**{"steps": 2, "batch_size": 4, "optimizer": Optimizer(learning_rate=0.1), **options})


def test_indivisible_batch_size_is_refused():
    with pytest.raises(
        ValueError, match="batch_size must be a multiple of gradient_accumulation_steps 3, got 4"
    ):
        settings(gradient_accumulation_steps=3)


def test_multi_worker_needs_two_workers_in_tf_config(monkeypatch):
    with pytest.raises(
        TrainingError, match="strategy multi_worker: TF_CONFIG must name two workers or more, got 0"
    ):
        open_strategy(settings(strategy="multi_worker"))
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["localhost:1"]}}))
    assert open_strategy(settings()).num_replicas_in_sync == 1


def test_jit_compile_is_refused_if_auto_finds_several_devices(monkeypatch):
    monkeypatch.setattr(distribution, "_choose", lambda: "mirrored")
    with pytest.raises(TrainingError, match="jit_compile must be false for strategy mirrored, got true"):
        open_strategy(settings(jit_compile=True))


def test_tpu_without_a_name_is_taken_from_the_environment(monkeypatch):
    asked = []
    monkeypatch.setenv("TPU_NAME", "mine")
    monkeypatch.setattr(
        tf.distribute.cluster_resolver, "TPUClusterResolver", lambda **given: asked.append(given) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        open_strategy(settings())
    assert asked == [{"tpu": None, "zone": None, "project": None}]


def test_jit_compile_is_refused_for_several_devices():
    with pytest.raises(ValueError, match="jit_compile must be false for strategy mirrored"):
        settings(strategy="mirrored", jit_compile=True)
