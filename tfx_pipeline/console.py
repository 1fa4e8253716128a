"""What a person sees of a run: one line a component, and none of the libraries' own chatter."""

from __future__ import annotations

import logging
import os
import time
import warnings
from dataclasses import dataclass

import click

# Loggers that warn of what a user can do nothing about; what matters reaches us as an exception.
NOISY = ("absl", "tensorflow", "apache_beam", "root", "h5py", "matplotlib")


def quiet() -> None:
    """Silences the libraries. Call it before TensorFlow is imported: its native log asks only once."""
    # Level 3 and not 2: a machine without a GPU logs its missing CUDA libraries as errors.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.CRITICAL)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@dataclass
class ComponentRun:
    """What one component of a run did: `state` is running, ran, cached or failed."""

    name: str
    started: float
    seconds: float = 0.0
    state: str = "running"


class ComponentLog(logging.Handler):
    """Follows TFX's local runner through its log messages, the only account it gives of itself.

    It tells when a component starts and ends, and whether its outputs came from the cache.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.components: list[ComponentRun] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Takes the messages of `LocalDagRunner` and `Launcher`; all others pass by."""
        match record.msg:
            case "Component %s is running.":
                name = str(record.args[0])  # type: ignore[index]
                self.components.append(ComponentRun(name, time.monotonic()))
            case "A cached execution %d is used.":
                self.components[-1].state = "cached"
            case "Component %s is finished.":
                self._end("ran")

    def fail(self) -> str | None:
        """Marks the component that was running as failed; its name, or None if there was none."""
        if not self.components or self.components[-1].state != "running":
            return None
        self._end("failed")
        return self.components[-1].name

    def _end(self, state: str) -> None:
        component = self.components[-1]
        component.seconds = time.monotonic() - component.started
        if component.state == "running":
            component.state = state
        mark = {"ran": "done", "cached": "cached", "failed": "FAILED"}[component.state]
        click.echo(f"{mark:>6}  {component.name:<26} {component.seconds:7.1f} s", err=True)
