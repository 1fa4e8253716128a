"""Beam as on Flink or Spark: a job service, and a pool of worker processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import grpc

from tests.components.token_transform import job_service

WORKERS = 2
SECONDS = 400  # 30 on an idle machine, most of it TensorFlow's import in each process
ROOT = Path(__file__).parents[1]


@contextmanager
def serve(logs):
    """Yield the flags that submit a pipeline to the service; `logs` is a folder for its output."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        pool_port = free.getsockname()[1]
    port_file = logs / "port"
    pool = ("-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={pool_port}")
    services = [
        _start(job_service.__file__, str(port_file), log=logs / "jobs"),
        _start(*pool, log=logs / "workers"),
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
            os.killpg(service.pid, signal.SIGKILL)
            service.wait(timeout=10)
        print((logs / "jobs").read_text(), (logs / "workers").read_text())


def _start(*command, log):
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
