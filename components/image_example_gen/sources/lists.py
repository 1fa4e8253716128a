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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import tensorflow as tf

from components.image_example_gen.sources.base import SourceError
from components.image_example_gen.splits import EVAL_NAMES

_LABELLED = re.compile(r"(?P<path>.*\S)\s+(?P<label>\d{1,6})")


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
    names = [
        name for name in ("train", *EVAL_NAMES) if tf.io.gfile.exists(os.path.join(directory, f"{name}.txt"))
    ]
    if not names:
        return None
    if "train" not in names or len(names) == 1:
        expected = " or ".join(f"{name}.txt" for name in EVAL_NAMES) if "train" in names else "train.txt"
        raise SourceError(f"folder:{directory} must have {expected} beside {names[0]}.txt, got none")
    files = {"train": "train.txt", "eval": f"{names[1]}.txt"}
    lines = {split: _lines(directory, file) for split, file in files.items()}
    matches = [_LABELLED.fullmatch(line) for own in lines.values() for line in own]
    labelled = bool(matches) and all(matches)
    splits: dict[str, str] = {}
    labels: dict[str, int] = {}
    for split, own in lines.items():
        for line in own:
            match = _LABELLED.fullmatch(line) if labelled else None
            path = match["path"] if match else line
            name = stem(_relative(directory, path))
            if splits.setdefault(name, split) != split:
                raise SourceError(f"folder:{directory} must have {path} in one list, got both")
            if match:
                labels[name] = int(match["label"])
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


def _lines(directory: str, file: str) -> list[str]:
    with tf.io.gfile.GFile(os.path.join(directory, file), "rb") as content:
        text = content.read().decode("utf-8-sig")  # Windows' editors write a byte order mark
    return [line for line in map(str.strip, text.splitlines()) if line]


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
