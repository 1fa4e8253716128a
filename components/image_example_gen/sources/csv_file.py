"""The source `csv:FILE`: a table with a header, a column of paths, and perhaps labels and splits.

Paths are relative to the file's folder, or absolute. Labels are the names of classes, sorted, numbers by
value. The columns are those that the configuration names, else the first of `PATHS` and of `LABELS`. A column
`split` holds names of splits; without it, lists beside the table may tell them (`sources.lists`).
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator

import apache_beam as beam
import tensorflow as tf

from components.image_example_gen import file_systems
from components.image_example_gen.images import Image
from components.image_example_gen.sources import files, lists, tables
from components.image_example_gen.sources.base import LeftAside, SourceError
from components.image_example_gen.splits import EVAL_NAMES, choose_splits, is_split_name, split_word
from serving.export.atomic import is_remote
from serving.wire.errors import one_line

PATHS = ("path", "image", "file", "filename", "file_name")
LABELS = ("label", "class")
SPLIT = "split"


class CsvFile:
    """Images that a table names; keys are the paths as written."""

    ready = True

    def __init__(self, path: str, image_feature: str | None = None, label_feature: str | None = None):
        path = path if is_remote(path) else os.path.abspath(os.path.expanduser(path))
        try:
            with file_systems.open_file(path) as file:
                text = file.read().decode("utf-8-sig")
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
            rows = list(reader)
        except (OSError, tf.errors.OpError, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"csv:{path} must be a CSV file in UTF-8: {one_line(error)}") from error
        if not rows:
            raise SourceError(f"csv:{path} must have a header and a row, got neither or one of them")
        columns = list(reader.fieldnames or ())
        if len(set(columns)) < len(columns):
            raise SourceError(f"csv:{path} must name each column once, got {', '.join(columns)}")
        paths = _column(path, "image", image_feature, PATHS, columns)
        labels = _column(path, "label", label_feature, LABELS, columns)
        uneven = next((n for n, row in enumerate(rows, 1) if None in row or None in row.values()), 0)
        if uneven:
            expected = f"{len(columns)} values in every row"
            raise SourceError(f"csv:{path} must have {expected}, got another number in row {uneven}")
        # As in other sources, -1 is no label.
        values = sorted({row[labels] for row in rows} - {"-1"} if labels else set(), key=_order)
        if "" in values and len(values) > 1:
            raise SourceError(f"csv:{path} must have a {labels} in every row or in none, got some")
        self.class_names: tuple[str, ...] = tuple(values) if len(values) > 1 else ()
        self.notes = (f"image is the column {paths}, label {labels if self.class_names else 'none'}",)
        splits = _splits(path, rows) if SPLIT in columns else {}
        folder = os.path.dirname(path)
        ids = {value: label for label, value in enumerate(self.class_names)}
        self._images = [
            Image(
                row[paths],
                ids.get(row[labels]) if ids else None,
                row[labels] if ids and row[labels] in ids else "",
                splits.get(row[SPLIT]) if splits else None,
                path=os.path.join(folder, row[paths]),
            )
            for row in rows
            if not splits or row[SPLIT] in splits
        ]
        others = [row for row in rows if splits and row[SPLIT] not in splits]
        self._left_aside = [LeftAside(row[paths], "is of another split") for row in others]
        in_lists = None
        if SPLIT not in columns:
            in_lists, aside = lists.read_beside(folder, f"csv:{path}", [row[paths] for row in rows])
            self._left_aside += aside
        if in_lists:
            in_lists.check_labels(f"the column {labels}" if self.class_names else "")
            listed = [(image, in_lists.look_up(image)) for image in self._images]
            self._left_aside += [
                LeftAside(image.key, "is in no list") for image, found in listed if not found
            ]
            self._images = [found for _, found in listed if found]

    def version(self) -> str:
        """A hash of the table and of its files' sizes and modification times, 16 hex digits."""
        own = (("/".join(map(str, (image.split, image.label))), image.path) for image in self._images)
        return files.version("", own)

    def scan(self) -> Iterator[Image | LeftAside]:
        """Every image in the table."""
        yield from self._left_aside
        yield from self._images

    def images(self) -> beam.PTransform:
        """Every image in the table; the bytes are read when they are written."""
        return beam.Create(self._images)


def _column(path: str, kind: str, asked: str | None, usual: tuple[str, ...], columns: list[str]) -> str:
    """The column that was asked for, or the first usual one; "" for a label that is declined or missing."""
    if asked == "" and kind == "label":
        return ""
    if asked is not None:
        if asked not in columns:
            raise SourceError(f"data.{kind}_feature must be one of {', '.join(columns)}, got {asked!r}")
        return asked
    found = next((column for column in usual if column in columns), "")
    like = tables.label_like(columns) if kind == "label" else columns
    if not found and like:
        declined = ' or "" for none' if kind == "label" else ""
        raise SourceError(
            f"csv:{path} must have one of the columns {', '.join(usual)}, or data.{kind}_feature must be "
            f"one of {', '.join(like)}{declined}"
        )
    return found


def _splits(path: str, rows: list[dict[str, str]]) -> dict[str, str]:
    """The values of the column of splits that are used -> our splits."""
    values = {row[SPLIT] for row in rows}
    by_word = {split_word(value) or value: value for value in values}
    chosen = choose_splits(by_word.keys())
    if not chosen or not all(map(is_split_name, values)):
        raise SourceError(
            f"csv:{path} must have train and one of {', '.join(EVAL_NAMES)} in the column {SPLIT}, "
            f"got {', '.join(sorted(values))}"
        )
    return {by_word[word]: split for word, split in chosen.items()}


def _order(value: str) -> tuple[int, int, str]:
    return (0, int(value), value) if value.isdecimal() and value.isascii() else (1, 0, value)
