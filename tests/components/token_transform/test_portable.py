"""Run TokenTransform as on Flink or Spark: submitted to a job service, executed by worker processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from components.dataset import TokenDataset, read_quarantine
from tests.components.token_transform import encodings, job_service

pytestmark = pytest.mark.slow

WORKERS = 2
SECONDS = 400  # 30 on an idle machine, most of it TensorFlow's import in each process
ROOT = Path(__file__).parents[3]


def start(*command, log):
    """Start a process in a group of its own, so that it can be killed with all its children."""
    # The worker pool starts the first `python` on the PATH.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "PATH": path, "PYTHONWARNINGS": "ignore"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def stop(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=10)


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Flags that submit a pipeline to a job service with a worker pool."""
    logs, pool_port = tmp_path_factory.mktemp("services"), free_port()
    port_file = logs / "port"
    services = [
        start(job_service.__file__, str(port_file), log=logs / "jobs"),
        start(
            "-m",
            "apache_beam.runners.worker.worker_pool_main",
            f"--service_port={pool_port}",
            log=logs / "workers",
        ),
    ]
    try:
        with grpc.insecure_channel(f"localhost:{pool_port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=SECONDS)
        deadline = time.monotonic() + SECONDS
        while not port_file.exists():
            assert time.monotonic() < deadline, (logs / "jobs").read_text()
            time.sleep(0.1)
        yield (
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{port_file.read_text()}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{pool_port}",
            f"--direct_num_workers={WORKERS}",
        )
    finally:
        for service in services:
            stop(service)
        print((logs / "jobs").read_text(), (logs / "workers").read_text())


@pytest.fixture
def time_limit():
    def stop(*_):
        raise TimeoutError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("time_limit")
def test_several_worker_processes_write_the_same_files_as_one(tmp_path, flags):
    model = encodings.write_model(str(tmp_path / "model"))
    images = encodings.write_images(tmp_path / "images", damaged=["train/4"], train=120, shards=4)
    here, result = encodings.run(tmp_path / "here", images, model, num_shards=2)
    counted = encodings.counters(result)
    there, result = encodings.run(tmp_path / "there", images, model, flags, num_shards=2)
    counted_there = encodings.counters(result)
    assert encodings.files(here) == encodings.files(there)
    assert [entry.key for entry in read_quarantine(there.uri)] == ["train/4"]
    assert TokenDataset.read(there.uri).records("train") == 3 * 119
    # Each process loads the model once, at its first file.
    assert (counted["load_milliseconds"], counted_there["load_milliseconds"]) == (1, WORKERS)
    assert {name: counted_there[name] for name in ("images", "skipped")} == {"images": 122, "skipped": 1}
