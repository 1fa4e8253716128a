"""The fingerprint of a SavedModel."""

from __future__ import annotations

import hashlib
import os

import tensorflow as tf

WEIGHTS = "variables.data-"


def fingerprint(saved_model: str) -> str:
    """Return a digest of the graph, the assets and the weights of the SavedModel in a folder.

    The weights enter by their index, which holds a checksum of each. TensorFlow's own fingerprint is
    missing from models saved before 2.11.
    """
    digest = hashlib.sha256()
    for folder, _, names in sorted(tf.io.gfile.walk(saved_model)):
        for name in sorted(names):
            if name.startswith(WEIGHTS):
                continue
            path = os.path.join(folder, name)
            with tf.io.gfile.GFile(path, "rb") as file:
                content = file.read()
            digest.update(f"{os.path.relpath(path, saved_model)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]
