"""The source `huggingface:DIR`: a folder that `save_to_disk` of Hugging Face's `datasets` has written.

A `DatasetDict` has a folder a split; a single `Dataset` is split by hash. The bytes of the images must be in
the data set, as in those of the hub, and not only their paths.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import tensorflow as tf

from components.image_example_gen import file_systems
from components.image_example_gen.images import Image
from components.image_example_gen.sources import files, tables
from components.image_example_gen.sources.base import LeftAside, Shard, SourceError
from components.image_example_gen.sources.sharded import ShardedSource
from components.image_example_gen.splits import choose_splits, split_word
from serving.export.atomic import is_remote
from serving.wire.errors import one_line


class HuggingFace(ShardedSource):
    """Images of a data set on disk; keys are the Arrow file's name, with its split, and the row."""

    def __init__(self, directory: str, image_feature: str | None = None, label_feature: str | None = None):
        if not is_remote(directory):
            directory = os.path.abspath(os.path.expanduser(directory))
        source = f"huggingface:{directory}"
        shards, left_aside = _shards(directory)
        if not shards:
            raise SourceError(f"{source} must be a folder of save_to_disk, got one without Arrow files")
        info = _json(os.path.join(os.path.dirname(shards[0].path), "dataset_info.json"))
        with _opened(shards[0].path) as reader:
            schema = reader.schema
        columns = tables.choose(source, schema, info.get("features") or {}, image_feature, label_feature)
        labels = (array for shard in shards for array in _column(shard.path, columns.label))
        columns = tables.with_text_labels(columns, schema, labels)
        super().__init__(shards, left_aside, _images_of, columns)
        self.class_names, self.notes = columns.class_names, columns.notes


def _images_of(shard: Shard, columns: tables.Columns) -> Iterator[Image]:
    try:
        with _opened(shard.path) as reader:
            yield from tables.images_of(reader, columns, shard.name, shard.split)
    except (OSError, tf.errors.OpError, pa.ArrowException) as error:
        raise SourceError(f"huggingface:{shard.path} cannot be read: {one_line(error)}") from error


def _column(path: str, name: str) -> Iterator[pa.Array]:
    with _opened(path) as reader:
        yield from (batch.column(name) for batch in reader)


def _shards(directory: str) -> tuple[list[Shard], list[LeftAside]]:
    """The Arrow files with their splits, and folders of further ones."""
    if file_systems.exists(os.path.join(directory, "state.json")):
        own: dict[str, str | None] = {"": None}
        aside: list[LeftAside] = []
    else:
        by_word = {split_word(name) or name: name for name in reversed(files.folders_in(directory))}
        named = {by_word[word]: split for word, split in choose_splits(by_word.keys()).items()}
        own = {**named} or dict.fromkeys(by_word.values())
        reason = "is another split"
        aside = [LeftAside(name, reason) for name in sorted(by_word.values()) if name not in own]
    found = [
        Shard(os.path.join(directory, file), file, split)
        for name, split in own.items()
        for file in _data_files(directory, name)
    ]
    return found, aside


def _data_files(directory: str, split: str) -> list[str]:
    state = _json(os.path.join(directory, split, "state.json"))
    # Names only: what the file says must not lead out of the folder.
    return [os.path.join(split, os.path.basename(entry["filename"])) for entry in state["_data_files"]]


def _json(path: str) -> dict[str, Any]:
    with file_systems.open_file(path) as file:
        return json.load(file)


def _opened(path: str) -> pa.ipc.RecordBatchStreamReader:
    return pa.ipc.open_stream(file_systems.open_file(path) if is_remote(path) else pa.memory_map(path))
