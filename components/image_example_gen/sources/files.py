"""Files of a source, on this machine or in an object store."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping

import tensorflow as tf

from components.image_example_gen import file_systems
from components.image_example_gen.source_kinds import matching_here
from components.image_example_gen.sources import lists
from components.image_example_gen.sources.base import LeftAside, Shard, SourceError
from components.image_example_gen.splits import EVAL_NAMES, choose_splits, word_in_path
from serving.export.atomic import is_remote
from serving.export.standard_image import ALL_SUFFIXES, UnreadableImage, read_header
from serving.wire.errors import one_line

IMAGE_SUFFIXES = ALL_SUFFIXES
# What archives and file managers leave behind.
_SYSTEM = {"__macosx", "thumbs.db", "desktop.ini"}


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's images: hidden, or left by an archive."""
    return name.startswith(".") or name.lower() in _SYSTEM


def folders_in(directory: str) -> list[str]:
    """The sorted names of the folders in a folder, without hidden ones."""
    if is_remote(directory):
        found = file_systems.folders_in(directory)
    else:
        with os.scandir(directory) as entries:
            found = [entry.name for entry in entries if _is_folder(entry) and is_text(entry.name)]
    return sorted(name for name in found if not is_hidden(name))


def matching(pattern: str) -> list[str]:
    """The sorted files that match a pattern with `*`, `?` and `[...]`, or the one that has this very name."""
    if not is_remote(pattern):
        return matching_here(os.path.abspath(os.path.expanduser(pattern)))
    if file_systems.exists(pattern) and not file_systems.is_folder(pattern):
        return [pattern]
    return sorted(file_systems.matching(pattern))


def shards(source: str, pattern: str) -> tuple[list[Shard], list[LeftAside]]:
    """The files that match a pattern, with the splits that their paths or lists name, and further ones.

    Raises:
      SourceError: none matches, or only some are of splits, or of one to train on and none held out.
    """
    try:
        found = matching(pattern)
    except (OSError, tf.errors.OpError) as error:
        raise SourceError(f"{source}:{pattern} cannot be read: {one_line(error)}") from error
    if not found:
        raise SourceError(f"{source}:{pattern} must match a file, got none")
    shared = posixpath.commonprefix([f"{posixpath.dirname(file)}/" for file in found])
    shared = shared[: shared.rfind("/") + 1]
    names = {file: file[len(shared) :] for file in found}
    words = {file: word_in_path(name) for file, name in names.items()}
    chosen = choose_splits(set(words.values()))
    if len(set(words.values())) == 1:  # of one split, or of none
        return _shards_in_lists(f"{source}:{pattern}", shared, names)
    if not chosen or not all(words.values()):
        example = names[next((file for file in found if not words[file]), found[0])]
        got = ", ".join(sorted(filter(None, set(words.values()))))
        held_out = ", ".join(EVAL_NAMES)
        raise SourceError(
            f"{source}:{pattern} must match files of train and one of {held_out}, or of no split, "
            f"got {got} and the file {example}"
        )
    used = [Shard(file, names[file], chosen[words[file]]) for file in found if words[file] in chosen]
    reason = "is another held-out split"
    others = [LeftAside(names[file], reason) for file in found if words[file] not in chosen]
    return used, others


def _shards_in_lists(
    source: str, directory: str, names: Mapping[str, str]
) -> tuple[list[Shard], list[LeftAside]]:
    """Files whose own paths tell no splits, by the lists in the folder that they share, if it has any."""
    read, aside = lists.read_beside(directory, source, names.values())
    if read is None:
        return [Shard(file, name, None) for file, name in names.items()], aside
    read.check_labels("its files")
    splits = {file: read.split_of(name) for file, name in names.items()}
    used = [Shard(file, names[file], split) for file, split in splits.items() if split]
    return used, [LeftAside(names[file], "is in no list") for file, split in splits.items() if not split]


def walk(directory: str, relative: str, *, recursive: bool = True) -> Iterator[str | LeftAside]:
    """The images under a folder and what is left aside, as paths relative to `directory`, in any order.

    Nothing is sorted or kept, so that memory does not grow with the number of files. A link to a folder that
    was entered already, or that contains this one, is left aside: each file is found once.

    Args:
      directory: the root of the source.
      relative: the folder to walk, "" for the root.
      recursive: whether to enter folders.
    """
    return (_walk_remote if is_remote(directory) else _walk_local)(directory, relative, recursive)


def _walk_local(directory: str, relative: str, recursive: bool) -> Iterator[str | LeftAside]:
    above = [directory]
    for part in relative.split("/") if relative else []:
        above.append(os.path.join(above[-1], part))
    entered = {_identity(folder) for folder in above[:-1]}
    waiting = [relative]
    while waiting:
        folder = waiting.pop()
        place = os.path.join(directory, folder)
        identity = _identity(place)
        if identity in entered:
            yield LeftAside(folder, "is a link to a folder that was entered already")
            continue
        entered.add(identity)
        with os.scandir(place) as entries:
            for entry in entries:
                name = entry.name
                path = f"{folder}/{name}" if folder else name
                if not is_text(name):
                    readable = path.encode(errors="backslashreplace").decode()
                    yield LeftAside(readable, "must have a name in UTF-8")
                elif is_hidden(name):
                    yield LeftAside(path, "is hidden")
                elif _is_folder(entry):
                    if recursive:
                        waiting.append(path)
                else:
                    reason = _why_not(name, entry.path) if _may_be_read(entry) else "is no regular file"
                    yield LeftAside(path, reason) if reason else path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link to one or to nothing; reading a pipe or a device may never end."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:  # links in a circle
        return True


def _walk_remote(directory: str, relative: str, recursive: bool) -> Iterator[str | LeftAside]:
    for folder, folders, names in file_systems.walk(posixpath.join(directory, relative)):
        base = folder[len(directory) :].strip("/")
        # `walk` descends into the folders that stay in this list.
        folders[:] = [name for name in folders if not is_hidden(name.rstrip("/"))] if recursive else []
        for name in names:
            path = posixpath.join(base, name)
            reason = "is hidden" if is_hidden(name) else _why_not(name, posixpath.join(folder, name))
            yield LeftAside(path, reason) if reason else path


def _why_not(name: str, path: str) -> str:
    """Why a file is no image by its name; "" if it is one. A file without a suffix is looked at."""
    stem, dot, suffix = name.rpartition(".")
    if stem and f".{suffix}".lower() in IMAGE_SUFFIXES:
        return ""
    if dot and stem:
        return f"has the suffix .{suffix}, which no known image format has"
    try:
        with file_systems.open_file(path) if is_remote(path) else open(path, "rb") as file:
            read_header(file)
    except (OSError, tf.errors.OpError, UnreadableImage):
        return "has no suffix and is no image"
    return ""


def is_text(name: str) -> bool:
    """Whether a name is valid Unicode, as paths of TensorFlow and features must be."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def status(path: str) -> file_systems.FileStatus:
    """The status of a file; of a link that leads nowhere, that of the link; of a missing file, size -1."""
    if is_remote(path):
        return file_systems.status(path)
    try:
        local = os.stat(path)
    except OSError:
        try:
            local = os.lstat(path)
        except OSError:  # a table names it
            return file_systems.FileStatus(-1, 0)
    return file_systems.FileStatus(local.st_size, local.st_mtime_ns)


def version(directory: str, files: Iterable[tuple[str, str]]) -> str:
    """A hash of (label, path) pairs in any order, with sizes and times of the files, 16 hex digits.

    Args:
      directory: what the paths are relative to; "" for absolute ones.
      files: a word that belongs to the file, as its split, and its path.
    """
    total = 0
    for word, path in files:
        size, modified = status(os.path.join(directory, path))
        entry = f"{word}\0{path}\0{size}\0{modified}".encode()
        # The sum does not depend on the order, which differs between file systems.
        total += int.from_bytes(hashlib.blake2b(entry, digest_size=16).digest(), "big")
    return f"{total % 2**128:032x}"[:16]
