"""TensorBoard's files of a training run.

Training and held-out data are two runs with the same tags: TensorBoard draws their curves over each other.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping

import tensorflow as tf

from trainers.training.distribution import is_chief

TRAIN, HELD_OUT = "train", "held_out"
_HELD_OUT_PREFIX = "eval_"


class TensorBoard:
    """Writes what is logged; on workers other than the chief, nothing."""

    def __init__(self, logs: str):
        self._writers = {
            name: tf.summary.create_file_writer(os.path.join(logs, name))
            if is_chief()
            else tf.summary.create_noop_writer()
            for name in (TRAIN, HELD_OUT)
        }

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *exception: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def write(self, step: int, entry: Mapping[str, float]) -> None:
        """Write a logged step; names with `eval_` are of held-out data."""
        held_out = {name for name in entry if name.startswith(_HELD_OUT_PREFIX)}
        for run, names in ((TRAIN, entry.keys() - held_out), (HELD_OUT, held_out)):
            # Once a step: leaving a writer flushes it, perhaps to a bucket.
            if names:
                with self._writers[run].as_default():
                    for name in sorted(names):
                        tf.summary.scalar(name.removeprefix(_HELD_OUT_PREFIX), entry[name], step=step)

    def write_pictures(self, step: int, pictures: Mapping[str, tf.Tensor]) -> None:
        """Write images [K, H, W, 3] in [0, 1], each set as one picture of nearly as many columns as rows."""
        if not pictures:
            return
        with self._writers[HELD_OUT].as_default():
            for name, images in pictures.items():
                tf.summary.image(name, _grid(images)[tf.newaxis], step=step)


def write_text(logs: str, texts: Mapping[str, str]) -> None:
    """Write texts, as they are, by tag."""
    if is_chief():
        with tf.summary.create_file_writer(os.path.join(logs, TRAIN)).as_default():
            for tag, text in texts.items():
                # Markdown, where four blanks keep lines apart.
                tf.summary.text(tag, textwrap.indent(text, "    "), step=0)


def _grid(images: tf.Tensor) -> tf.Tensor:
    """Images [K, H, W, C] side by side in rows, [R H, L W, C]; the last row is filled with black."""
    count, height, width, channels = images.shape
    across = math.ceil(math.sqrt(count))
    rows = math.ceil(count / across)
    filled = tf.pad(images, [[0, rows * across - count], [0, 0], [0, 0], [0, 0]])
    tiles = tf.reshape(filled, [rows, across, height, width, channels])
    return tf.reshape(tf.transpose(tiles, [0, 2, 1, 3, 4]), [rows * height, across * width, channels])
