"""Files and folders that appear whole or not at all, on any file system that TensorFlow knows."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

# Names of unfinished files begin so; TensorFlow, TFX and Beam skip such files.
DRAFT = ".draft-"


@contextmanager
def atomic_path(path: str | os.PathLike[str], draft_folder: str = "") -> Iterator[str]:
    """Yield a draft path to write a file or a folder to; on success it becomes `path`, else it is removed.

    Concurrent writers have a draft each, and the last one to finish wins.

    Args:
      path: what to write; missing parent folders are made. A folder may replace an empty folder.
      draft_folder: where the draft is written, on the same file system; beside `path` by default.
    """
    path = os.fspath(path)
    _, suffix = os.path.splitext(path)  # kept, because Pillow and NumPy choose the format by it
    draft = os.path.join(draft_folder or os.path.dirname(path), f"{DRAFT}{uuid.uuid4().hex}{suffix}")
    for folder in {os.path.dirname(path), os.path.dirname(draft)}:
        make_folder(folder)
    try:
        yield draft
        _replace(draft, path)
    except BaseException:
        remove(draft)
        raise


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write bytes, or text as UTF-8: a reader sees the old file or the new one."""
    data = content.encode() if isinstance(content, str) else content
    with atomic_path(path) as draft:
        if is_remote(draft):
            import tensorflow as tf

            with tf.io.gfile.GFile(draft, "wb") as file:
                file.write(data)
        else:
            with open(draft, "wb") as local:
                local.write(data)


@contextmanager
def atomic_folder(folder: str) -> Iterator[None]:
    """Empty `folder` before the body, and again if the body fails.

    So nothing in it is from an earlier attempt, and a failed attempt leaves nothing that looks like a result.
    The empty folder stays: TFX removes it after a failure, and if it is missing, that error hides the reason.
    Drafts that a killed writer left in it are removed at the end.
    """
    import tensorflow as tf

    remove(folder)
    make_folder(folder)
    try:
        yield
    except BaseException:
        remove(folder)
        make_folder(folder)
        raise
    for draft in tf.io.gfile.glob(os.path.join(folder, f"{DRAFT}*")):
        remove(draft)


def make_folder(folder: str) -> None:
    """Make a folder and its parents, if they are missing; "" is the working directory."""
    if is_remote(folder):
        import tensorflow as tf

        tf.io.gfile.makedirs(folder)
    elif folder:
        os.makedirs(folder, exist_ok=True)


def copy_file(source: str, target: str) -> None:
    """Copy the content of a file."""
    if is_remote(source) or is_remote(target):
        import tensorflow as tf

        tf.io.gfile.copy(source, target)
    else:
        shutil.copyfile(source, target)


def remove(path: str) -> None:
    """Remove a file or a whole folder, if it exists."""
    if is_remote(path):
        import tensorflow as tf

        if tf.io.gfile.isdir(path):
            tf.io.gfile.rmtree(path)
        elif tf.io.gfile.exists(path):
            tf.io.gfile.remove(path)
    elif os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)


def _replace(draft: str, path: str) -> None:
    if is_remote(path):
        import tensorflow as tf

        tf.io.gfile.rename(draft, path, overwrite=True)
    else:
        os.replace(draft, path)


def is_remote(path: str) -> bool:
    """Whether a path names another file system than this machine's."""
    return "://" in path
