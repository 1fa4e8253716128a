"""The source `parquet:PATTERN`: Parquet files with a column of images, as Hugging Face's hub serves them.

The paths of the files tell the splits (`train-00000-of-00004.parquet`, `test/0000.parquet`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.image_example_gen import file_systems
from components.image_example_gen.images import Image
from components.image_example_gen.sources import files, tables
from components.image_example_gen.sources.base import Shard, SourceError
from components.image_example_gen.sources.sharded import ShardedSource
from serving.export.atomic import is_remote
from serving.wire.errors import one_line

# Rows at once: an image may have megabytes.
ROWS = 16


class Parquet(ShardedSource):
    """Images of all files that match a pattern; keys are the file's name and the row."""

    def __init__(self, pattern: str, image_feature: str | None = None, label_feature: str | None = None):
        shards, left_aside = files.shards("parquet", pattern)
        schema = _opened(shards[0].path).schema_arrow
        columns = tables.choose(f"parquet:{pattern}", schema, _features(schema), image_feature, label_feature)
        wanted = [name for name in (columns.image, columns.label) if name]
        kinds = [schema.field(name).type for name in wanted]
        for shard in shards:
            other = _opened(shard.path).schema_arrow
            if [other.field(name).type if name in other.names else None for name in wanted] != kinds:
                listed = ", ".join(wanted)
                raise SourceError(f"parquet:{shard.path} must have {listed} as other files do")
        labels = (_opened(shard.path).read([columns.label]).column(0) for shard in shards)
        columns = tables.with_text_labels(columns, schema, labels)
        super().__init__(shards, left_aside, _images_of, columns)
        self.class_names, self.notes = columns.class_names, columns.notes


def _images_of(shard: Shard, columns: tables.Columns) -> Iterator[Image]:
    wanted = [name for name in (columns.image, columns.label) if name]
    try:
        batches = _opened(shard.path).iter_batches(batch_size=ROWS, columns=wanted)
        yield from tables.images_of(batches, columns, shard.name, shard.split)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"parquet:{shard.path} cannot be read: {one_line(error)}") from error


def _opened(file: str) -> pq.ParquetFile:
    return pq.ParquetFile(file_systems.open_file(file) if is_remote(file) else file)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Hugging Face's description of the columns; empty if there is none."""
    described = (schema.metadata or {}).get(b"huggingface")
    try:
        return json.loads(described)["info"]["features"] if described else {}
    except (ValueError, KeyError, TypeError):
        return {}
