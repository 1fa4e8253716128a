"""The source `parquet:PATTERN`: Parquet files with a column of images, as Hugging Face's hub serves them.

The first word of the files' names tells the splits (`train-00000-of-00004.parquet`, `test-...`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from components.image_example_gen.images import Image
from components.image_example_gen.sources import files, tables
from components.image_example_gen.sources.base import LeftAside, ReadFiles, SourceError
from components.image_example_gen.splits import splits_of_files
from serving.wire.errors import one_line

# Rows at once: an image may have megabytes.
ROWS = 16


class Parquet:
    """Images of all files that match a pattern; keys are the file's name and the row."""

    ready = True

    def __init__(self, pattern: str, image_feature: str | None = None, label_feature: str | None = None):
        try:
            self._files = files.matching(pattern)
            if not self._files:
                raise SourceError(f"parquet:{pattern} must match a file, got none")
            schema = _opened(self._files[0]).schema_arrow
            columns = tables.choose(
                f"parquet:{pattern}", schema, _features(schema), image_feature, label_feature
            )
            labels = (_opened(file).read([columns.label]).column(0) for file in self._files)
            self._columns = tables.with_text_labels(columns, schema, labels)
        except (OSError, tf.errors.OpError, pa.ArrowException) as error:
            raise SourceError(f"parquet:{pattern} cannot be read: {one_line(error)}") from error
        self.class_names = self._columns.class_names
        self.notes = (f"image is the column {columns.image}, label {columns.label or 'none'}",)
        self._splits = splits_of_files(self._files)

    def version(self) -> str:
        """A hash of the files' names, sizes and modification times, 16 hex digits."""
        word = f"{self._columns.image}/{self._columns.label}"
        return files.version("", ((word, file) for file in self._files))

    def scan(self) -> Iterator[Image | LeftAside]:
        """Read file by file."""
        for one in self._splits.items():
            yield from _images_of(one, self._columns)

    def images(self) -> beam.PTransform:
        """Read file by file."""
        return ReadFiles(self._splits, _images_of, self._columns)


def _images_of(one: tuple[str, str | None], columns: tables.Columns) -> Iterator[Image]:
    file, split = one
    wanted = [name for name in (columns.image, columns.label) if name]
    try:
        batches = _opened(file).iter_batches(batch_size=ROWS, columns=wanted)
        yield from tables.images_of(batches, columns, os.path.basename(file), split)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"parquet:{file} cannot be read: {one_line(error)}") from error


def _opened(file: str) -> pq.ParquetFile:
    return pq.ParquetFile(tf.io.gfile.GFile(file, "rb") if files.is_remote(file) else file)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Hugging Face's description of the columns; empty if there is none."""
    described = (schema.metadata or {}).get(b"huggingface")
    try:
        return json.loads(described)["info"]["features"] if described else {}
    except (ValueError, KeyError, TypeError):
        return {}
