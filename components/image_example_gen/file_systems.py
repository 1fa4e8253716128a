"""The file systems of sources: this machine's and TensorFlow's by `tf.io.gfile`, S3 and MinIO by pyarrow.

All raise OSError where a file or its store cannot be read.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, cast

import tensorflow as tf
from pyarrow import fs

from components.object_store import open_store
from serving.wire.errors import one_line

_OF_PYARROW = ("s3://", "minio://")
_WILD = frozenset("*?[")


class FileStatus(NamedTuple):
    """What changes when a file does."""

    size: int
    modified: int  # nanoseconds since the epoch; 0 if unknown


def open_file(path: str) -> BinaryIO:
    """Open a file to read bytes; it can seek."""
    if not path.startswith(_OF_PYARROW):
        return cast(BinaryIO, tf.io.gfile.GFile(path, "rb"))
    with _errors():
        store, key = open_store(path)
        return cast(BinaryIO, store.open_input_file(key))


@contextlib.contextmanager
def on_disk(path: str) -> Iterator[str]:
    """Yield a path that TensorFlow reads: of a copy, kept as long as the context, or the file's own."""
    if not path.startswith(_OF_PYARROW):
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = os.path.join(scratch, posixpath.basename(path))
        with open_file(path) as source, open(copy, "wb") as target:
            shutil.copyfileobj(source, target, 2**24)
        yield copy


def exists(path: str) -> bool:
    """Whether there is a file or a folder."""
    if not path.startswith(_OF_PYARROW):
        return bool(tf.io.gfile.exists(path))
    return _info(path).type != fs.FileType.NotFound


def is_folder(path: str) -> bool:
    """Whether there is a folder; in an object store, any object below it."""
    if not path.startswith(_OF_PYARROW):
        return bool(tf.io.gfile.isdir(path))
    return _info(path).type == fs.FileType.Directory


def status(path: str) -> FileStatus:
    """The status of a file that exists."""
    if not path.startswith(_OF_PYARROW):
        found = tf.io.gfile.stat(path)
        return FileStatus(found.length, found.mtime_nsec)
    info = _info(path)
    if info.type != fs.FileType.File:
        raise FileNotFoundError(f"{path} must be a file, got none")
    return FileStatus(info.size, info.mtime_ns or 0)


def folders_in(folder: str) -> list[str]:
    """The names of the folders in a folder of an object store, in any order."""
    if folder.startswith(_OF_PYARROW):
        return [info.base_name for info in _listed(folder) if info.type == fs.FileType.Directory]
    # Object stores list folders with a trailing slash.
    names = [name.rstrip("/") for name in tf.io.gfile.listdir(folder)]
    return [name for name in names if tf.io.gfile.isdir(posixpath.join(folder, name))]


def matching(pattern: str) -> list[str]:
    """The files of an object store that match a pattern, part by part as a shell does, in any order."""
    if not pattern.startswith(_OF_PYARROW):
        return list(tf.io.gfile.glob(pattern))
    scheme, _, path = pattern.partition("://")
    parts = path.split("/")
    plain = next((index for index, part in enumerate(parts) if _WILD & set(part)), len(parts))
    found = _listed(f"{scheme}://{'/'.join(parts[:plain])}", recursive=True, missing=True)
    names = (info.path.split("/") for info in found if info.type == fs.FileType.File)
    return [
        f"{scheme}://{'/'.join(name)}"
        for name in names
        if len(name) == len(parts) and all(map(fnmatch.fnmatchcase, name, parts))
    ]


def walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folders of an object store from the top, as `os.walk`: those taken from the list are not entered."""
    if not folder.startswith(_OF_PYARROW):
        yield from tf.io.gfile.walk(folder)
        return
    found = _listed(folder)
    folders = [info.base_name for info in found if info.type == fs.FileType.Directory]
    yield folder, folders, [info.base_name for info in found if info.type == fs.FileType.File]
    for name in folders:
        yield from walk(posixpath.join(folder, name))


def _info(path: str) -> fs.FileInfo:
    with _errors():
        store, key = open_store(path)
        return store.get_file_info(key)


def _listed(folder: str, *, recursive: bool = False, missing: bool = False) -> list[fs.FileInfo]:
    with _errors():
        store, key = open_store(folder)
        found = store.get_file_info(fs.FileSelector(key, recursive=recursive, allow_not_found=missing))
    # A folder's marker is an object of the folder's name.
    return [info for info in found if info.base_name and info.path.rstrip("/") != key]


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Raise pyarrow's further errors, as of a bucket that cannot exist, as OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(one_line(error)) from error
