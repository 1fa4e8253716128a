"""Images of folders: found, read and answered chunk by chunk, so that a killed command goes on.

The answers of a chunk lie in `OUTPUT.part` beside the output until this is whole. A file of a folder that
nobody can read is skipped and counted; one that the user has named ends the command.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from serving.cli.files import FileError, read_image
from serving.client.client import Array
from serving.export.atomic import DRAFT, atomic_path, remove
from serving.export.metadata import MAX_PIXELS
from serving.export.standard_image import ALL_SUFFIXES
from serving.wire.errors import RefusedError, printable

CHUNK = 64
# Takes image files, and returns arrays by name with a row for each.
Ask = Callable[[list[bytes]], Mapping[str, Array]]
# Arrays of a stored chunk beside the answer's.
_OWN = ("names", "skipped", "first")


@dataclass(frozen=True)
class Source:
    """An image file.

    Attributes:
      path: of the file.
      name: as the answer names it: below its folder, or the file's name.
      named: whether the user named it; else it was found in a folder.
    """

    path: Path
    name: str
    named: bool


@dataclass(frozen=True)
class Chunk:
    """The answer to some of the images.

    Attributes:
      names: of the images that were read.
      arrays: by name, a row for each of them; empty if there are none.
      skipped: a line for each file that was not.
      first: the place of the first image that was read, among the chunk's files; -1 if there is none.
    """

    names: tuple[str, ...]
    arrays: Mapping[str, Array]
    skipped: tuple[str, ...]
    first: int


def find(paths: Sequence[Path]) -> list[Source]:
    """Find the images: files as given, and of folders every file below with an image's suffix, by name.

    Raises:
      FileError: a folder holds none, or one below cannot be read.
    """

    def stop(error: OSError) -> None:
        raise FileError(f"{error.filename} {(error.strerror or str(error)).lower()}") from error

    found: list[Source] = []
    folders = [path for path in paths if path.is_dir()]
    for path in paths:
        if not path.is_dir():
            found.append(Source(path, path.name, named=True))
            continue
        inside = sorted(
            Path(folder, name)
            for folder, _, names in os.walk(path, onerror=stop)
            for name in names
            if Path(name).suffix.lower() in ALL_SUFFIXES
        )
        if not inside:
            raise FileError(f"{path} must hold images, got no file named like one")
        # Of several folders, names of files alone would not tell which is which.
        root = path if len(folders) == 1 else path.parent
        found += [Source(one, one.relative_to(root).as_posix(), named=False) for one in inside]
    return found


@contextlib.contextmanager
def answered(
    sources: Sequence[Source], output: Path, ask: Ask, command: str = "", max_pixels: int = MAX_PIXELS
) -> Iterator[Iterable[Chunk]]:
    """Ask for all images; yield the chunks, which are read again whenever they are iterated.

    Args:
      sources: what `find` returned.
      output: of the command. What an earlier command with the same output and the same files had answered,
        before it was killed, is used again if the model still gives its first answer.
      ask: asks a model.
      command: its name: another one's answers are not used.
      max_pixels: an image with more is made smaller.

    Raises:
      FileError: no image can be read, or one that was named cannot.
    """
    chunks = [sources[start : start + CHUNK] for start in range(0, len(sources), CHUNK)]
    if len(chunks) == 1:
        only = _answer(sources, ask, max_pixels)
        _check_any([only], len(sources))
        yield [only]
        return
    part = output.with_name(f"{output.name}.part")
    stored = [
        part / f"{_digest(chunk, f'{command} {max_pixels}')}-{index}.npz"
        for index, chunk in enumerate(chunks)
    ]
    try:
        with _bar(len(sources)) as advance:
            _drop_others(stored, chunks, ask, max_pixels)
            for chunk, path in zip(chunks, stored, strict=True):
                if not path.exists():
                    _write(path, _answer(chunk, ask, max_pixels))
                advance(len(chunk))
        _check_any(_Stored(stored), len(sources))
        yield _Stored(stored)
        _clear(part, stored)
    except OSError as error:
        raise FileError(f"cannot write {part}: {(error.strerror or str(error)).lower()}") from error


class _Stored(Iterable[Chunk]):
    """Chunks in files, read again whenever they are iterated."""

    def __init__(self, paths: Sequence[Path]):
        self._paths = paths

    def __iter__(self) -> Iterator[Chunk]:
        return map(_read, self._paths)


def _read(path: Path) -> Chunk:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    names, skipped, first = (arrays.pop(name) for name in _OWN)
    return Chunk(tuple(names.tolist()), arrays, tuple(skipped.tolist()), int(first))


def _write(path: Path, chunk: Chunk) -> None:
    own = (np.array(chunk.names, np.str_), np.array(chunk.skipped, np.str_), np.array(chunk.first))
    with atomic_path(path) as draft:
        # To NumPy 2's type hints any of them might be `allow_pickle`.
        np.savez(draft, **dict[str, Any]({**dict(zip(_OWN, own, strict=True)), **chunk.arrays}))


def _answer(sources: Sequence[Source], ask: Ask, max_pixels: int) -> Chunk:
    read: list[tuple[int, bytes]] = []
    skipped: list[str] = []

    def skip(source: Source, error: Exception) -> None:
        if source.named:
            raise error
        skipped.append(printable(str(error)))

    for place, source in enumerate(sources):
        try:
            read.append((place, read_image(source.path, max_pixels)))
        except FileError as error:
            skip(source, error)
    try:
        arrays = ask([content for _, content in read]) if read else {}
    except RefusedError:
        # One of them, such as a photograph of more pixels than the server takes: each is asked alone.
        kept, rows = [], []
        for place, content in read:
            try:
                rows.append(ask([content]))
                kept.append((place, content))
            except RefusedError as error:
                skip(sources[place], FileError(f"{sources[place].path}: {error}"))
        read = kept
        arrays = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]} if rows else {}
    places = [place for place, _ in read]
    names = tuple(sources[place].name for place in places)
    return Chunk(names, arrays, tuple(skipped), places[0] if places else -1)


def _drop_others(
    stored: Sequence[Path], chunks: Sequence[Sequence[Source]], ask: Ask, max_pixels: int
) -> None:
    """Remove stored chunks that are damaged, and all of them if the model answers something else by now."""
    asked = False
    for path, sources in zip(stored, chunks, strict=True):
        if not path.exists():
            continue
        try:
            chunk = _read(path)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            remove(os.fspath(path))
            continue
        if asked or chunk.first < 0:
            continue
        asked = True
        again = ask([read_image(sources[chunk.first].path, max_pixels)])
        if any(not _alike(again[name][0], rows[0]) for name, rows in chunk.arrays.items()):
            for one in stored:
                remove(os.fspath(one))
            return


def _alike(again: Array, stored: Array) -> bool:
    """Whether two answers are the same, but for last bits of floats, which other rows of a request move."""
    if stored.dtype.kind == "f":
        return again.shape == stored.shape and np.allclose(again, stored, 1e-4, 1e-5)
    return np.array_equal(again, stored)


def _clear(part: Path, stored: Sequence[Path]) -> None:
    """Remove the stored chunks, drafts of killed commands, and the folder if nothing else is in it."""
    for path in (*stored, *part.glob(f"{DRAFT}*")):
        remove(os.fspath(path))
    with contextlib.suppress(OSError):
        part.rmdir()


def _digest(sources: Sequence[Source], command: str) -> str:
    """A command, and the names, sizes and times of some files."""
    digest = hashlib.sha256(command.encode())
    for source in sources:
        try:
            stat = source.path.stat()
            state = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:  # it cannot be read either, and is skipped
            state = ""
        digest.update(b"%s\0%s\n" % (os.fsencode(source.path.absolute()), state.encode()))
    return digest.hexdigest()[:16]


def _check_any(chunks: Iterable[Chunk], count: int) -> None:
    reasons: list[str] = []
    for chunk in chunks:
        if chunk.names:
            return
        reasons += chunk.skipped[:1]
    raise FileError(f"one of the {count} images must be readable, got: {reasons[0]}")


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar for people; nothing in a log."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    with click.progressbar(length=total, file=sys.stderr, show_pos=True, label="images") as bar:
        yield bar.update
