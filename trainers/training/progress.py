"""Progress of a training run, for a terminal or a log."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

# Without a terminal, a line is printed at this interval instead of a bar.
SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """A bar with rate, remaining time and loss, or lines if standard error is not a terminal."""

    def __init__(self, title: str, *, total: int, done: int):
        self._title, self._total, self._first, self._done = title, total, done, done
        self._console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} steps/s"),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, rate=0.0, loss=math.nan)
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Progress:
        if self._first:
            self._console.print(f"{self._title}: resuming from step {self._first} of {self._total}")
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()
        if self._done == self._total:
            self._console.print(f"{self._title}: {self._total} steps, {self.rate:.1f} steps/s")

    @property
    def rate(self) -> float:
        """Steps per second since this process started to train."""
        return (self._done - self._first) / max(time.monotonic() - self._started, 1e-9)

    def say(self, message: str) -> None:
        """Print a line above the bar, whole and as it is: it may hold a path."""
        self._console.print(f"{self._title}: {message}", soft_wrap=True, markup=False, highlight=False)

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """Show the number of steps done, and their mean loss if they have one."""
        self._done = done
        loss = metrics.get("loss", math.nan)
        self._bar.update(self._task, completed=done, rate=self.rate, loss=loss)
        now = time.monotonic()
        if self._bar.disable and now - self._last_line > SECONDS_BETWEEN_LINES and done < self._total:
            self._last_line = now
            left = (self._total - done) / self.rate
            self._console.print(
                f"{self._title}: step {done} of {self._total}, {self.rate:.1f} steps/s, "
                f"{left:.0f} s left, loss {loss:.4f}"
            )
