"""Split lists: text files beside a folder's images that name the images of each split.

    DIR/train.txt       one path a line, relative to DIR or absolute, perhaps with a label behind it
    DIR/val.txt         likewise; or the first of the other `splits.EVAL_NAMES`

Suffixes are ignored, so a list of `00012.npy` also fits a folder of `00012.png`. Images that no list names
are left aside.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from components.image_example_gen.sources.base import SourceError
from components.image_example_gen.splits import EVAL_NAMES, TRAIN_NAMES, choose_splits

# A path ends in a suffix of letters and digits, or has none.
_LINE = re.compile(r"(?P<path>.+?\.\w+)\s+(?P<label>\d{1,6})|(?P<whole>.*[^.\s]|.+\.\w+)")


@dataclass(frozen=True)
class Lists:
    """The lists of a folder.

    Attributes:
      files: split -> file name.
      splits: `stem` of an image -> its split.
      labels: `stem` of an image -> its label; empty if the lists have none.
    """

    files: Mapping[str, str]
    splits: Mapping[str, str]
    labels: Mapping[str, int]


def read(directory: str) -> Lists | None:
    """Read the lists of a folder; None if it has none.

    Raises:
      SourceError: one of the two lists is missing, an image is in both, or only some lines have a label.
    """
    found = {name: file for name in (*TRAIN_NAMES, *EVAL_NAMES) if (file := _file(directory, name))}
    if not found:
        return None
    chosen = choose_splits(found.keys())
    if not chosen:
        one = next(iter(found.values()))
        missing = EVAL_NAMES if set(found) & set(TRAIN_NAMES) else TRAIN_NAMES
        expected = " or ".join(f"{name}.txt" for name in missing)
        raise SourceError(f"folder:{directory} must have {expected} beside {one}, got none")
    files = {split: found[name] for name, split in chosen.items()}
    lines = {split: list(_lines(directory, file)) for split, file in files.items()}
    labelled = [line for own in lines.values() for line in own if line.label is not None]
    if labelled and len(labelled) < sum(map(len, lines.values())):
        plain = next(line.path for own in lines.values() for line in own if line.label is None)
        expected = "a label in all lines of its lists or in none"
        raise SourceError(f"folder:{directory} must have {expected}, got {plain}")
    splits: dict[str, str] = {}
    labels: dict[str, int] = {}
    for split, own in lines.items():
        for path, label in own:
            name = stem(_relative(directory, path))
            if splits.setdefault(name, split) != split:
                raise SourceError(f"folder:{directory} must have {path} in one list, got both")
            if label is not None and labels.setdefault(name, label) != label:
                both = f"{labels[name]} and {label}"
                raise SourceError(f"folder:{directory} must have one label for {path}, got {both}")
    return Lists(files, splits, labels)


def check(directory: str, lists: Lists, files: Iterable[str]) -> None:
    """Check that every image in the lists of a folder exists.

    Raises:
      SourceError: a list names a missing image.
    """
    missing = lists.splits.keys() - {stem(file) for file in files}
    if missing:
        raise SourceError(
            f"folder:{directory} must have all images in its lists, "
            f"got {len(missing)} missing, the first {min(missing)}"
        )


def stem(path: str) -> str:
    """The path without its suffix, by which list entries and files are matched."""
    return posixpath.splitext(posixpath.normpath(path))[0]


class _Line(NamedTuple):
    path: str
    label: int | None


def _file(directory: str, name: str) -> str:
    """The list of a split, in any usual case; "" if there is none."""
    forms = (name, name.capitalize(), name.upper())
    usual = [form + suffix for form in forms for suffix in (".txt", ".TXT")]
    return next((file for file in usual if tf.io.gfile.exists(os.path.join(directory, file))), "")


def _lines(directory: str, file: str) -> Iterator[_Line]:
    with tf.io.gfile.GFile(os.path.join(directory, file), "rb") as content:
        text = content.read().decode("utf-8-sig")  # Windows' editors write a byte order mark
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        match = _LINE.fullmatch(line)
        path = (match["path"] or match["whole"]) if match else line
        if not line:
            continue
        # Anything behind the suffix would be lost with it.
        if not re.fullmatch(r"(\.\w+)?", posixpath.splitext(path)[1]):
            expected = "a path, or a path and one integer of at most six digits"
            raise SourceError(f"folder:{directory}, line {number} of {file} must be {expected}, got {line!r}")
        yield _Line(path, int(match["label"]) if match and match["label"] else None)


def _relative(directory: str, path: str) -> str:
    """A path of a list, relative to the folder; `find $PWD` writes absolute ones."""
    if not posixpath.isabs(path):
        return path
    relative = posixpath.relpath(path, directory)
    if relative.startswith("../"):
        relative = posixpath.relpath(os.path.realpath(path), os.path.realpath(directory))
    if relative.startswith("../"):
        raise SourceError(f"folder:{directory} must contain all images in its lists, got {path}")
    return relative
