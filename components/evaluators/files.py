"""JSON and arrays as files that appear whole or not at all, on any file system that TFX knows."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from tfx.dsl.io import fileio

from serving.export.atomic import write_atomic


def read_bytes(path: str) -> bytes:
    """The whole file."""
    with fileio.open(path, "rb") as file:
        return file.read()


def write_json(path: str, content: Any) -> None:
    """Writes JSON; numbers that are not finite, for which JSON has no word, become null."""
    write_atomic(path, json.dumps(_finite(content), indent=2, allow_nan=False))


def read_json(path: str) -> Any:
    """What `write_json` wrote."""
    return json.loads(read_bytes(path))


def write_arrays(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as a compressed .npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote; refuses pickled objects."""
    with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as arrays:
        return dict(arrays)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
