"""Keep TensorFlow's start-up lines off the terminal.

From 2.18 on TensorFlow writes some lines while it is imported, before it reads TF_CPP_MIN_LOG_LEVEL
(tensorflow/tensorflow#100442): of oneDNN, and of CUDA on machines without a GPU. Its native code writes them
to file descriptor 2, so nothing in Python sees them.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

# The lines of information, and what stands above the first: not those of warnings and errors.
_NOISE = re.compile(
    rb"^(?:WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    rb"|I\d{4} \d\d:\d\d:\S+ +\d+ \S+:\d+\] .*)\n",
    re.MULTILINE,
)


def quiet_import() -> None:
    """Leave the lines out when this process imports TensorFlow; all else is written when it is imported."""
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
    """Write what goes to file descriptor 2 only at the end, without the noise."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            written.seek(0)
            os.write(2, _NOISE.sub(b"", written.read()))
