"""Console output of a run: one line per component, without the libraries' logs."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tfx_pipeline import memory, native_log

# Loggers whose warnings a user cannot act on; errors that matter arrive as exceptions.
NOISY = ("absl", "tensorflow", "apache_beam", "root", "h5py", "matplotlib")


def quiet() -> None:
    """Silence the libraries. Call it before TensorFlow is imported, which reads its log level only once."""
    # Level 3, not 2: without a GPU, TensorFlow logs the missing CUDA libraries as errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    native_log.quiet_import()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.CRITICAL)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Show a growing count on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.completed:,} " + what),
        TextColumn("{task.fields[rate]:,.0f} a second"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    task = bar.add_task("", total=None, rate=0.0)
    started = time.monotonic()

    def show(count: int) -> None:
        if count % 1000 == 0:
            bar.update(task, completed=count, rate=count / max(time.monotonic() - started, 1e-9))

    with bar:
        yield show


class Listener(Protocol):
    """What is told of the components of a run."""

    def started(self, name: str) -> None:
        """A component starts."""

    def why(self, name: str) -> str:
        """A component is not answered from the cache; return the reason, or ""."""

    def ended(self, name: str) -> None:
        """A component has ended without an error."""


@dataclass
class ComponentRun:
    """One component of a run: `state` is running, ran, cached or failed; `memory` the peak in bytes."""

    name: str
    started: float
    counts_memory: bool
    seconds: float = 0.0
    memory: int | None = None
    state: str = "running"


class ComponentLog(logging.Handler):
    """Tracks TFX's local runner by its log messages, the only progress information it provides.

    Records when a component starts and ends, and whether its outputs came from the cache.
    """

    def __init__(self, listener: Listener) -> None:
        super().__init__(logging.INFO)
        self._listener = listener
        self.components: list[ComponentRun] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Handle the messages of `LocalDagRunner` and `Launcher`; ignore all others."""
        match record.msg:
            case "Component %s is running.":
                name = str(record.args[0])  # type: ignore[index]
                self.components.append(ComponentRun(name, time.monotonic(), memory.reset_peak()))
                self._listener.started(name)
            case "A cached execution %d is used.":
                self.components[-1].state = "cached"
            case "Going to run a new execution %d":
                name = self.components[-1].name
                if why := self._listener.why(name):
                    click.echo(f"{'':>6}  {name:<26} {why}", err=True)
            case "Component %s is finished.":
                self._end("ran")
                self._listener.ended(self.components[-1].name)

    def fail(self) -> str | None:
        """Mark the running component as failed; return its name, or None if none was running."""
        if not self.components or self.components[-1].state != "running":
            return None
        self._end("failed")
        return self.components[-1].name

    def _end(self, state: str) -> None:
        component = self.components[-1]
        component.seconds = time.monotonic() - component.started
        component.memory = memory.peak() if component.counts_memory else None
        if component.state == "running":
            component.state = state
        mark = {"ran": "done", "cached": "cached", "failed": "FAILED"}[component.state]
        click.echo(f"{mark:>6}  {component.name:<26} {component.seconds:7.1f} s", err=True)
