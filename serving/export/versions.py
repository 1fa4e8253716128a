"""Versions of models in the folder that a server watches: `<base>/<model>/<integer>/saved_model.pb`.

TensorFlow is imported only for folders of object stores.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from serving.export.atomic import DRAFT, atomic_path, copy_file, is_remote, make_folder, remove

SAVED_MODEL = "saved_model.pb"
MAX_VERSION = 2**63 - 1


def model_names(base: str) -> list[str]:
    """The folders below `base` that hold versions; [] if `base` is not a folder."""
    return [name for name in sorted(_folders(base)) if versions(os.path.join(base, name))]


def versions(model_dir: str) -> dict[int, str]:
    """The versions in a model's folder and their paths, the newest first, whole or not; {} without a folder.

    As TF Serving reads them, `00000123` is version 123. Numbers beyond 64 bits are none.
    """
    names = [name for name in _folders(model_dir) if name.isascii() and name.isdecimal()]
    # Of `7` and `007` the shorter name counts.
    found = {int(name): name for name in sorted(names, key=len, reverse=True) if int(name) <= MAX_VERSION}
    return {number: os.path.join(model_dir, found[number]) for number in sorted(found, reverse=True)}


def no_model(base: str) -> str:
    """What to say of a folder without models."""
    return f"{base} must hold <model>/<integer version>/saved_model.pb, got no model"


def push(model: str, base: str) -> str:
    """Copy a SavedModel to a new version of a folder, and remove what a killed push has left there.

    On an object store nothing is removed: half a version may be another push that still runs.

    The version is the time in seconds, or one above the newest if that is not smaller: it rises whatever the
    clock does. A server sees the version whole or not at all: a folder of this machine is renamed when it is
    whole; on an object store `saved_model.pb` is copied last.

    Returns:
      The folder of the version.
    """
    if not is_remote(base):
        _remove_halves(base)
    version = max([int(time.time()), *(known + 1 for known in versions(base))])
    destination = os.path.join(base, str(version))
    if is_remote(base):
        _copy(model, destination)
    else:
        with atomic_path(destination) as draft:
            _copy(model, draft)
    return destination


def content_digest(folder: str) -> str:
    """A digest of every file below a folder; "" without the folder."""
    digest = hashlib.sha256()
    files = _files(folder)
    for path in files:
        own = hashlib.sha256()
        for block in blocks(os.path.join(folder, path)):
            own.update(block)
        digest.update(f"{path}\0{own.hexdigest()}\n".encode())
    return digest.hexdigest()[:16] if files else ""


def _remove_halves(base: str) -> None:
    for name in _folders(base):
        half = name.isdecimal() and SAVED_MODEL not in _files(os.path.join(base, name))
        if half or name.startswith(DRAFT):
            remove(os.path.join(base, name))


def _copy(model: str, destination: str) -> None:
    for path in _files(model):
        target = os.path.join(destination, path)
        make_folder(os.path.dirname(target))
        copy_file(os.path.join(model, path), target)


def _folders(base: str) -> list[str]:
    """The names of the folders in a folder, in any order."""
    if is_remote(base):
        import tensorflow as tf

        names = [name.rstrip("/") for name in tf.io.gfile.listdir(base)] if tf.io.gfile.isdir(base) else []
        return [name for name in names if tf.io.gfile.isdir(os.path.join(base, name))]
    if not os.path.isdir(base):
        return []
    with os.scandir(base) as entries:
        return [entry.name for entry in entries if entry.is_dir()]


def _files(folder: str) -> list[str]:
    """The files below a folder, relative to it, `saved_model.pb` last."""
    if is_remote(folder):
        import tensorflow as tf

        walked = tf.io.gfile.walk(folder)
    else:
        walked = os.walk(folder)
    found = [
        os.path.relpath(os.path.join(place, name), folder) for place, _, names in walked for name in names
    ]
    return sorted(found, key=lambda path: (path == SAVED_MODEL, path))


def blocks(path: str) -> Iterator[bytes]:
    """The content of a file, a part at a time."""
    opened: Callable[..., Any] = open
    if is_remote(path):
        import tensorflow as tf

        opened = tf.io.gfile.GFile
    with opened(path, "rb") as file:
        while block := file.read(2**24):
            yield block
