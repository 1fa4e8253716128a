"""Read what a training has written for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf


def values(folder: Path) -> dict[str, dict[int, Any]]:
    """By tag, what was written at each step: a number, or the strings of a text or a picture."""
    found: dict[str, dict[int, Any]] = {}
    for path in folder.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                read = array.item() if array.ndim == 0 else array.tolist()
                found.setdefault(value.tag, {})[event.step] = read
    return found


def picture(folder: Path, tag: str, step: int) -> tf.Tensor:
    """A picture, uint8 [H, W, 3]."""
    _, _, png = values(folder)[tag][step]
    return tf.io.decode_png(png)
