"""Files and folders that appear whole or not at all, on every file system that TensorFlow knows."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

DRAFT = ".draft-"  # how the names of unfinished files begin; TensorFlow, TFX and Beam read no such files


@contextmanager
def whole_file(path: str, draft_folder: str) -> Iterator[str]:
    """Gives a name in `draft_folder` to write to; what stands there when the body is done becomes `path`.

    A runner may try a bundle twice at once: each try has a draft of its own, and the last one stands.
    """
    draft = os.path.join(draft_folder, f"{DRAFT}{uuid.uuid4().hex}")
    try:
        yield draft
        tf.io.gfile.rename(draft, path, overwrite=True)
    except BaseException:
        if tf.io.gfile.exists(draft):
            tf.io.gfile.remove(draft)
        raise


@contextmanager
def whole_folder(folder: str) -> Iterator[None]:
    """Empties `folder` before the body, removes it where the body fails, and drafts that a killed try left.

    So that nothing in it is from a former try, and nothing is left of a failed one that looks like a result.
    """
    _remove(folder)
    tf.io.gfile.makedirs(folder)
    try:
        yield
    except BaseException:
        _remove(folder)
        raise
    for draft in tf.io.gfile.glob(os.path.join(folder, f"{DRAFT}*")):
        tf.io.gfile.remove(draft)


def _remove(folder: str) -> None:
    if tf.io.gfile.isdir(folder):
        tf.io.gfile.rmtree(folder)
