"""Keep TensorFlow's start-up lines off the terminal.

From 2.18 on TensorFlow writes some lines while it is imported, before it reads TF_CPP_MIN_LOG_LEVEL
(tensorflow/tensorflow#100442): of oneDNN, and of CUDA on machines without a GPU. Its native code writes them
to file descriptor 2, so nothing in Python sees them.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

# Lines of information, and what stands above the first: not those of warnings and errors.
_NOISE = (
    r"^WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR$",
    r"^I[0-9]{4} [0-9]{2}:[0-9]{2}:[^ ]+ +[0-9]+ [^ ]+:[0-9]+\] ",
)


def quiet_import() -> None:
    """Leave the lines out when this process imports TensorFlow, and nothing else."""
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds TensorFlow once, as Python does, and wraps its loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of TensorFlow; None for every other module."""
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with _filtered():
                    load(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _filtered() -> Iterator[None]:
    """Send file descriptor 2 through grep: a process of its own, for native code may abort this one.

    Without grep, or without standard error, nothing is filtered.
    """
    try:
        kept = os.dup(2)
        patterns = [part for pattern in _NOISE for part in ("-e", pattern)]
        command = ["grep", "--text", "--invert-match", "--line-buffered", "--extended-regexp", *patterns]
        grep = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=kept)
    except OSError:
        yield
        return
    assert grep.stdin is not None
    os.dup2(grep.stdin.fileno(), 2)
    grep.stdin.close()
    try:
        yield
    finally:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(kept, 2)  # closes the pipe, at whose end grep ends
        os.close(kept)
        grep.wait()
