"""The lock of a run's folder: one run at a time, and what the last one was doing if it was killed."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

FILE = "run.lock"


class RunningError(RuntimeError):
    """Another run uses the folder; the message is one line for the user."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    Attributes:
      host: its machine.
      process: its number there.
      since: when it began, in this machine's time.
      component: what it was running last; "" before the first.
    """

    host: str
    process: int
    since: str
    component: str = ""


class RunLock:
    """A lock that is held.

    Attributes:
      killed: the run before, if it ended without giving the lock back.
    """

    def __init__(self, file: IO[str], holder: Holder, killed: Holder | None):
        self._file = file
        self._holder = holder
        self.killed = killed
        self.note("")

    def note(self, component: str) -> None:
        """Write down which component runs."""
        self._file.seek(0)
        self._file.truncate()
        json.dump({**asdict(self._holder), "component": component}, self._file)
        self._file.flush()


@contextlib.contextmanager
def hold(folder: Path, *, keep: bool = False) -> Iterator[RunLock]:
    """Hold the lock of a run's folder.

    The operating system gives the lock of a dead process back, so a file that stayed behind is no obstacle.

    Args:
      folder: of the run.
      keep: leave what a killed run has left in the lock, for the next run to tell of.

    Raises:
      RunningError: another process holds it.
    """
    with open(folder / FILE, "a+") as file:
        before = _take(folder, file)
        since = datetime.datetime.now().isoformat(" ", "seconds")
        try:
            yield RunLock(file, Holder(socket.gethostname(), os.getpid(), since), before)
        finally:
            file.truncate(0)  # a killed process leaves its name for the next run
            if keep and before:
                file.seek(0)
                json.dump(asdict(before), file)


def check_free(folder: Path) -> None:
    """Check that no process holds the lock, and leave what a killed one has left.

    Raises:
      RunningError: another process holds it.
    """
    with open(folder / FILE, "a+") as file:
        _take(folder, file)


def _take(folder: Path, file: IO[str]) -> Holder | None:
    """Take the lock; return what a killed process has left in it."""
    if not _locked(file, _content(file)):
        before = _content(file)
        who = f"process {before.process} on {before.host} since {before.since}" if before else "another"
        raise RunningError(
            f"{folder} must be used by one run at a time, got a second beside {who}; if that one is gone, "
            f"remove {folder / FILE}"
        )
    return _content(file)  # read again: the holder may have ended in between


def _content(file: IO[str]) -> Holder | None:
    file.seek(0)
    try:
        return Holder(**json.loads(file.read()))
    except (ValueError, TypeError):
        return None


def _locked(file: IO[str], holder: Holder | None) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        # A file system without locks: a holder on this machine is looked for; of others nothing is known.
        # A container that starts again has the same host and process as the one that was killed.
        own = holder is not None and holder.host == socket.gethostname()
        return holder is None or (own and (holder.process == os.getpid() or not _lives(holder.process)))
    return True


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True
