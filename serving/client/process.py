"""A model server in a process of its own, for the time of a context."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import NamedTuple

from serving.wire.errors import ServingError


class Endpoints(NamedTuple):
    """Where a server listens."""

    grpc: str
    http: str


@contextlib.contextmanager
def started(base: str, *, seconds: float) -> Iterator[Endpoints]:
    """Start a server, and end it with the context.

    Args:
      base: holds `<model>/<integer version>/saved_model.pb`.
      seconds: to load and warm up all models, and for each request.

    Raises:
      ServingError: no model loads, or not in time; one line.
    """
    command = [sys.executable, "-m", "serving.server", base, str(seconds)]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        clock = threading.Timer(seconds, process.kill)
        clock.start()
        try:
            # "serving MODEL version VERSION at GRPC HTTP", when it is warm.
            line = process.stdout.readline() if process.stdout else ""
            clock.cancel()
            if not line:
                process.wait()
                said.seek(0)
                reason = ([one.strip() for one in said if one.strip()] or ["nothing was said"])[-1]
                raise ServingError(f"the server must start within {seconds:.0f} seconds, got: {reason}")
            grpc, http = line.split()[-2:]
            yield Endpoints(grpc, http)
        finally:
            clock.cancel()
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
