import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from tfx_pipeline import run_lock
from tfx_pipeline.run_lock import RunningError, hold

HOLD = (
    "import pathlib, sys, time; from tfx_pipeline import run_lock;"
    "context = run_lock.hold(pathlib.Path(sys.argv[1])); lock = context.__enter__();"
    "lock.note('Trainer-vim'); print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.slow
def test_second_run_is_refused_with_host_and_process(tmp_path, other):
    holder = f"process {other.pid} on {socket.gethostname()}"
    message = f"must be used by one run at a time, got a second beside {holder}"
    with pytest.raises(RunningError, match=message), hold(tmp_path):
        pass


@pytest.mark.slow
def test_lock_of_a_killed_process_is_taken_over_and_tells_what_ran(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    with hold(tmp_path) as lock:
        assert (lock.killed.process, lock.killed.component) == (other.pid, "Trainer-vim")
    with hold(tmp_path) as lock:
        assert lock.killed is None


def test_who_is_no_run_leaves_what_a_killed_one_has_left(tmp_path):
    left = {"host": "here", "process": 7, "since": "yesterday", "component": "Trainer-vim"}
    (tmp_path / run_lock.FILE).write_text(json.dumps(left))
    with hold(tmp_path, keep=True):
        pass
    with hold(tmp_path, keep=True) as again:
        assert (again.killed.process, again.killed.component) == (7, "Trainer-vim")
    with hold(tmp_path):
        pass
    with hold(tmp_path, keep=True) as lock:
        assert lock.killed is None


def test_error_gives_the_lock_back(tmp_path):
    with pytest.raises(ValueError, match="failed"), hold(tmp_path):
        raise ValueError("failed")
    with hold(tmp_path) as lock:
        assert lock.killed is None


def test_damaged_lock_file_is_no_obstacle(tmp_path):
    (tmp_path / run_lock.FILE).write_text('{"host": ')
    with hold(tmp_path) as lock:
        assert lock.killed is None


@pytest.mark.parametrize(
    ("host", "process", "refused"),
    [
        (None, os.getppid(), True),
        (None, os.getpid(), False),
        (None, 2**22 + 1, False),
        ("elsewhere", 2**22 + 1, True),
    ],
    ids=["lives", "was this one", "is dead", "on another machine"],
)
def test_without_locks_of_the_file_system_the_holder_is_looked_for(
    tmp_path, monkeypatch, host, process, refused
):
    def unsupported(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    holder = {"host": host or socket.gethostname(), "process": process, "since": "yesterday"}
    (tmp_path / run_lock.FILE).write_text(json.dumps(holder))
    if refused:
        with pytest.raises(RunningError), hold(tmp_path):
            pass
    else:
        with hold(tmp_path) as lock:
            assert lock.killed.process == process
