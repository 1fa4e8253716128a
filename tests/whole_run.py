"""One run of the whole pipeline, in a process of its own, for all test modules that compare with it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Three shards of samples, for two workers.
SMALL = ("--preset", "digits", "--small", "--set", "evaluation.generation.shard_size=7")


def run(folder: Path, *options: str) -> None:
    """Run the pipeline into a folder.

    In a process of its own, as a pod: in that of the tests TensorFlow's optimizer of graphs is off, which
    gives other bits.
    """
    command = [Path(sys.executable).with_name("tfx-vim"), "run", *SMALL, *options, "--output", folder]
    subprocess.run(command, check=True, capture_output=True)


def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run, which the first of pytest's workers that asks makes."""
    base = tmp_path_factory.getbasetemp()
    place = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with open(place / "whole_run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "whole_run" / "metrics.json").exists():
            run(place / "whole_run")
    return place / "whole_run"
