"""A model server in a process of its own, for the time of a context."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

from serving.wire.errors import ServingError


@contextlib.contextmanager
def started(base: str, *, seconds: float) -> Iterator[tuple[str, str]]:
    """Start a server, and end it with the context; yield its addresses, gRPC and REST.

    Args:
      base: holds `<model>/<integer version>/saved_model.pb`.
      seconds: to load and warm up all models, and for each request.

    Raises:
      ServingError: no model loads, or not in time; one line.
      MemoryError: the system has killed the process, as it does when memory runs out.
    """
    command = [sys.executable, "-m", "serving.server", base, str(seconds)]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        clock = threading.Timer(seconds, give_up)
        clock.start()
        try:
            # "serving MODEL version VERSION at GRPC HTTP", when it is warm.
            line = process.stdout.readline() if process.stdout else ""
            clock.cancel()
            if not line:
                if process.wait() < 0 and not late.is_set():
                    raise MemoryError(f"the server was killed by signal {-process.returncode}")
                said.seek(0)
                reason = ([one.strip() for one in said if one.strip()] or ["nothing was said"])[-1]
                raise ServingError(f"the server must start within {seconds:.0f} seconds, got: {reason}")
            grpc, http = line.split()[-2:]
            yield grpc, http
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
