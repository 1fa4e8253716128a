"""Files of JSON and of arrays, written atomically, on any file system that TFX supports."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from tfx.dsl.io import fileio

from serving.export.atomic import write_atomic

# Scores, protocol and counts of an evaluator, in its artifact.
EVALUATION_FILE = "evaluation.json"


def read_bytes(path: str) -> bytes:
    """Read a whole file."""
    with fileio.open(path, "rb") as file:
        return file.read()


def to_json(content: Any) -> str:
    """Encode as JSON; NaN and infinity, which JSON cannot represent, become null."""
    return json.dumps(_finite(content), indent=2, allow_nan=False)


def write_json(path: str, content: Any) -> None:
    """Write JSON as `to_json` encodes it."""
    write_atomic(path, to_json(content))


def read_json(path: str) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(read_bytes(path))


def write_arrays(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as a compressed .npz."""
    buffer = io.BytesIO()
    # To NumPy 2's type hints any of them might be `allow_pickle`.
    np.savez_compressed(buffer, **dict[str, Any](arrays))
    write_atomic(path, buffer.getvalue())


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """Read what `write_arrays` wrote; refuse pickled objects."""
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
