import signal
import subprocess
import sys

import pytest

from serving.client import process
from serving.wire.errors import ServingError


@pytest.fixture
def program(monkeypatch):
    """Lets `started` start another program in place of the server."""

    def replace(code):
        begin = subprocess.Popen
        monkeypatch.setattr(
            subprocess, "Popen", lambda command, **options: begin([sys.executable, "-c", code], **options)
        )

    return replace


def test_a_server_that_refuses_is_an_error_with_its_last_line(program):
    program("import sys; sys.exit('noise\\nno model loads: why')")
    with pytest.raises(ServingError, match="got: no model loads: why"), process.started("x", seconds=20):
        pass


def test_a_server_that_is_not_ready_in_time_is_ended(program):
    program("import time; time.sleep(100)")
    with pytest.raises(ServingError, match="must start within 1 seconds"), process.started("x", seconds=1):
        pass


def test_a_killed_process_says_nothing_of_the_model(program):
    program(f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})")
    with pytest.raises(MemoryError, match="killed by signal 9"), process.started("x", seconds=20):
        pass
