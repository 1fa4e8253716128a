"""Split lists: text files beside a source's files that name those of each split.

    DIR/train.txt       one path a line, relative to DIR or absolute, perhaps with a label behind it
    DIR/val.txt         likewise; or the first of the other `splits.EVAL_NAMES`

The files are a folder's images, those that a table names, or files of many images. Suffixes are ignored, so
a list of `00012.npy` also fits a folder of `00012.png`. Files that no list names are left aside.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from components.image_example_gen import file_systems
from components.image_example_gen.images import Image
from components.image_example_gen.sources.base import LeftAside, SourceError
from components.image_example_gen.splits import EVAL_NAMES, TRAIN_NAMES, choose_splits

_SUFFIX = re.compile(r"\.\w+")
_SHARD = re.compile(r"\.\w+-\d+-of-\d+")  # TensorFlow's way to number files
# A path ends in a suffix of letters and digits, or has none.
_LINE = re.compile(r"(?P<path>.+?\.\w+)\s+(?P<label>\d{1,6})|(?P<whole>.*[^.\s]|.+\.\w+)")


@dataclass(frozen=True)
class Lists:
    """The lists of a source.

    Attributes:
      source: whose they are, for messages.
      directory: the folder that they lie in.
      files: split -> file name.
      splits: `stem` of a file -> its split.
      labels: `stem` of a file -> its label; empty if the lists have none.
    """

    source: str
    directory: str
    files: Mapping[str, str]
    splits: Mapping[str, str]
    labels: Mapping[str, int]

    def split_of(self, path: str) -> str | None:
        """The split of a file, by its path as a list may have it; None if no list names it."""
        return self.splits.get(self._stem(path))

    def look_up(self, image: Image) -> Image | None:
        """An image whose key is its path, with its split and perhaps its label; None if no list names it."""
        split, label = self.split_of(image.key), self.labels.get(self._stem(image.key))
        if split is None:
            return None
        if label is not None:
            image = replace(image, label=label, class_name=str(label))
        return replace(image, split=split)

    def check(self, paths: Iterable[str]) -> None:
        """Check that the source has every file that the lists name.

        Raises:
          SourceError: a list names a missing file.
        """
        missing = self.splits.keys() - set(map(self._stem, paths))
        if missing:
            raise SourceError(
                f"{self.source} must have all files in its lists, "
                f"got {len(missing)} missing, the first {min(missing)}"
            )

    def check_labels(self, others: str) -> None:
        """Check that the lists are the only ones to give labels.

        Raises:
          SourceError: the lists have labels, and so has what `others` names, which is not empty.
        """
        if self.labels and others:
            raise SourceError(f"{self.source} must have labels in its lists or {others}, got both")

    def _stem(self, path: str) -> str:
        return stem(_relative(self.directory, path))


def read(directory: str, source: str) -> Lists | None:
    """Read the lists in a folder; None if it has none.

    Args:
      directory: the folder.
      source: whose files they name, as `folder:DIR`, for messages.

    Raises:
      SourceError: one of the two lists is missing, a file is in both, or only some lines have a label.
    """
    found = {name: file for name in (*TRAIN_NAMES, *EVAL_NAMES) if (file := _file(directory, name))}
    if not found:
        return None
    chosen = choose_splits(found.keys())
    if not chosen:
        one = next(iter(found.values()))
        missing = EVAL_NAMES if set(found) & set(TRAIN_NAMES) else TRAIN_NAMES
        expected = " or ".join(f"{name}.txt" for name in missing)
        raise SourceError(f"{source} must have {expected} beside {one}, got none")
    files = {split: found[name] for name, split in chosen.items()}
    lines = {split: list(_lines(source, directory, file)) for split, file in files.items()}
    labelled = [line for own in lines.values() for line in own if line.label is not None]
    if labelled and len(labelled) < sum(map(len, lines.values())):
        plain = next(line.path for own in lines.values() for line in own if line.label is None)
        expected = "a label in all lines of its lists or in none"
        raise SourceError(f"{source} must have {expected}, got {plain}")
    splits: dict[str, str] = {}
    labels: dict[str, int] = {}
    for split, own in lines.items():
        for path, label in own:
            name = stem(_relative(directory, path))
            if splits.setdefault(name, split) != split:
                raise SourceError(f"{source} must have {path} in one list, got both")
            if label is not None and labels.setdefault(name, label) != label:
                both = f"{labels[name]} and {label}"
                raise SourceError(f"{source} must have one label for {path}, got {both}")
    return Lists(source, directory, files, splits, labels)


def read_beside(directory: str, source: str, paths: Collection[str]) -> tuple[Lists | None, list[LeftAside]]:
    """Read the lists beside files that are no folder of images, where lists may belong to something else.

    Args:
      directory: the folder.
      source: whose files they name, for messages.
      paths: the files.

    Returns:
      The lists, or None and why those that are there are not used.

    Raises:
      SourceError: as `read`, and a list names a missing file beside others that are there.
    """
    found = {name: file for name in (*TRAIN_NAMES, *EVAL_NAMES) if (file := _file(directory, name))}
    if not choose_splits(found.keys()):
        return None, [LeftAside(file, "is a list without its counterpart") for file in found.values()]
    read_ones = read(directory, source)
    if read_ones is None or not any(read_ones.split_of(path) for path in paths):
        reason = f"is a list that names no file of {source.partition(':')[0]}:"
        return None, [LeftAside(file, reason) for file in found.values()]
    read_ones.check(paths)
    return read_ones, []


def stem(path: str) -> str:
    """The path without its suffix of letters and digits, by which list entries and files are matched."""
    path = posixpath.normpath(path)
    root, suffix = posixpath.splitext(path)
    return root if _SUFFIX.fullmatch(suffix) else path


class _Line(NamedTuple):
    path: str
    label: int | None


def _file(directory: str, name: str) -> str:
    """The list of a split, in any usual case; "" if there is none."""
    forms = (name, name.capitalize(), name.upper())
    usual = [form + suffix for form in forms for suffix in (".txt", ".TXT")]
    return next((file for file in usual if file_systems.exists(os.path.join(directory, file))), "")


def _lines(source: str, directory: str, file: str) -> Iterator[_Line]:
    with file_systems.open_file(os.path.join(directory, file)) as content:
        text = content.read().decode("utf-8-sig")  # Windows' editors write a byte order mark
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        match = _LINE.fullmatch(line)
        path = (match["path"] or match["whole"]) if match else line
        if not line:
            continue
        suffix = posixpath.splitext(path)[1]
        if suffix and not _SUFFIX.fullmatch(suffix) and not _SHARD.fullmatch(suffix):
            expected = "a path, or a path and one integer of at most six digits"
            raise SourceError(f"{source}, line {number} of {file} must be {expected}, got {line!r}")
        yield _Line(path, int(match["label"]) if match and match["label"] else None)


def _relative(directory: str, path: str) -> str:
    """A path relative to the lists' folder if it is in there; `find $PWD` writes absolute ones."""
    if not posixpath.isabs(path):
        return path
    relative = posixpath.relpath(path, directory)
    if relative.startswith("../"):
        relative = posixpath.relpath(os.path.realpath(path), os.path.realpath(directory))
    return path if relative.startswith("../") else relative
