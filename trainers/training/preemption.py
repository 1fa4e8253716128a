"""Preemption: SIGTERM and SIGINT let a training save its checkpoint before they end it.

Kubernetes, spot machines and people send SIGTERM some seconds before they kill. What was trained since the
last checkpoint is then not lost.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

# EX_TEMPFAIL of sysexits.h, "try again later": tells a scheduler that the same command goes on.
PREEMPTED = 75


class Preempted(SystemExit):
    """A training that SIGTERM ended, after its checkpoint was saved; the exit code is `PREEMPTED`.

    No `Exception`, which TFX would wrap.
    """

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


class Preemption:
    """Notes the first SIGTERM or SIGINT while the context lasts; a second one acts as it did before.

    One that nobody has answered at the end of the context acts then. Outside of the main thread Python
    handles no signals, and nothing is noted.
    """

    def __init__(self) -> None:
        self._noted: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._restore()
        if self._noted is not None and kind is None:
            signal.raise_signal(self._noted)

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._noted is not None

    def leave(self) -> None:
        """End the training, whose checkpoint is saved.

        Raises:
          Preempted: at SIGTERM, or if the signal came to another worker. SIGINT does what it would have done.
        """
        self._restore()
        if self._noted == signal.SIGINT:
            signal.raise_signal(signal.SIGINT)
        raise Preempted

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
