"""Images of folders: found, read and answered chunk by chunk, so that a killed command goes on.

The answers of a chunk lie in `OUTPUT.part` beside the output until this is whole. A file of a folder that
cannot be read is skipped and counted; one that the user has named ends the command.
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
from serving.export.atomic import atomic_path, remove
from serving.export.standard_image import ALL_SUFFIXES

CHUNK = 64
# Takes image files, and returns arrays by name with a row for each.
Ask = Callable[[list[bytes]], Mapping[str, Array]]


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
      names: of the images that could be read.
      arrays: by name, a row for each of them; empty if there are none.
      skipped: a line for each file that could not be read.
    """

    names: tuple[str, ...]
    arrays: Mapping[str, Array]
    skipped: tuple[str, ...]


def find(paths: Sequence[Path]) -> list[Source]:
    """Find the images: files as given, and of folders every file below with an image's suffix, by name.

    Raises:
      FileError: a folder holds none.
    """
    found: list[Source] = []
    for path in paths:
        if not path.is_dir():
            found.append(Source(path, path.name, named=True))
            continue
        inside = sorted(
            Path(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if Path(name).suffix.lower() in ALL_SUFFIXES
        )
        if not inside:
            raise FileError(f"{path} must hold images, got no file named like one")
        found += [Source(one, one.relative_to(path).as_posix(), named=False) for one in inside]
    return found


@contextlib.contextmanager
def answered(sources: Sequence[Source], output: Path, ask: Ask) -> Iterator[Iterable[Chunk]]:
    """Ask for all images; yield the chunks, which are read again whenever they are iterated.

    Args:
      sources: what `find` returned.
      output: of the command. What an earlier command with the same output and the same files had answered,
        before it was killed, is used again if the model still gives its first answer.
      ask: asks a model.

    Raises:
      FileError: no image can be read, or one that was named cannot.
    """
    chunks = [sources[start : start + CHUNK] for start in range(0, len(sources), CHUNK)]
    if len(chunks) == 1:
        only = _answer(sources, ask)
        _check_any([only], len(sources))
        yield [only]
        return
    part = output.with_name(f"{output.name}.part")
    stored = _Stored([part / f"{_digest(chunk)}-{index}.npz" for index, chunk in enumerate(chunks)])
    try:
        with _bar(len(sources)) as advance:
            if os.path.isdir(part) and not _goes_on(stored, chunks, ask):
                remove(os.fspath(part))
            for chunk, path in zip(chunks, stored.paths, strict=True):
                if not path.exists():
                    _write(path, _answer(chunk, ask))
                advance(len(chunk))
        _check_any(stored, len(sources))
        yield stored
    except OSError as error:
        raise FileError(f"cannot write {part}: {(error.strerror or str(error)).lower()}") from error
    remove(os.fspath(part))


class _Stored(Iterable[Chunk]):
    """Chunks in files, read again whenever they are iterated."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths

    def __iter__(self) -> Iterator[Chunk]:
        return map(_read, self.paths)


def _read(path: Path) -> Chunk:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    names, skipped = arrays.pop("names"), arrays.pop("skipped")
    return Chunk(tuple(names.tolist()), arrays, tuple(skipped.tolist()))


def _answer(sources: Sequence[Source], ask: Ask) -> Chunk:
    names, contents, skipped = [], [], []
    for source in sources:
        try:
            contents.append(read_image(source.path))
            names.append(source.name)
        except FileError as error:
            if source.named:
                raise
            skipped.append(str(error))
    return Chunk(tuple(names), ask(contents) if contents else {}, tuple(skipped))


def _write(path: Path, chunk: Chunk) -> None:
    with atomic_path(path) as draft:
        texts = {"names": np.array(chunk.names, np.str_), "skipped": np.array(chunk.skipped, np.str_)}
        # To NumPy 2's type hints any of them might be `allow_pickle`.
        np.savez(draft, **dict[str, Any]({**texts, **chunk.arrays}))


def _goes_on(stored: _Stored, chunks: Sequence[Sequence[Source]], ask: Ask) -> bool:
    """Whether what is stored is of these files and this model."""
    for path, sources in zip(stored.paths, chunks, strict=True):
        if not path.exists():
            continue
        try:
            chunk = _read(path)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return False
        if not chunk.names:
            continue
        first = next(source for source in sources if source.name == chunk.names[0])
        again = ask([read_image(first.path)])
        return all(np.array_equal(again[name][0], rows[0]) for name, rows in chunk.arrays.items())
    return True


def _digest(sources: Sequence[Source]) -> str:
    """Names, sizes and times of some files."""
    digest = hashlib.sha256()
    for source in sources:
        stat = source.path.stat()
        digest.update(f"{source.path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
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
