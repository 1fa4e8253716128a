"""The source `huggingface:DIR`: a folder that `save_to_disk` of Hugging Face's `datasets` has written.

A `DatasetDict` has a folder a split; a single `Dataset` is split by hash. The bytes of the images must be in
the data set, as in those of the hub, and not only their paths.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf

from components.image_example_gen.images import Image
from components.image_example_gen.sources import files, tables
from components.image_example_gen.sources.base import LeftAside, ReadFiles, SourceError
from components.image_example_gen.splits import EVAL_NAMES, TRAIN_NAMES
from serving.wire.errors import one_line


class HuggingFace:
    """Images of a data set on disk; keys are the Arrow file's name, with its split, and the row."""

    ready = True

    def __init__(self, directory: str, image_feature: str | None = None, label_feature: str | None = None):
        if not files.is_remote(directory):
            directory = os.path.abspath(os.path.expanduser(directory))
        self._directory = directory
        source = f"huggingface:{directory}"
        try:
            self._splits = _files(directory)
            if not self._splits:
                raise SourceError(f"{source} must be a folder of save_to_disk, got one without Arrow files")
            first = next(iter(self._splits))
            info = _json(os.path.join(directory, os.path.dirname(first), "dataset_info.json"))
            with _opened(os.path.join(directory, first)) as reader:
                schema = reader.schema
            columns = tables.choose(source, schema, info.get("features") or {}, image_feature, label_feature)
            labels = (array for file in self._splits for array in self._labels(file, columns.label))
            self._columns = tables.with_text_labels(columns, schema, labels)
        except (OSError, tf.errors.OpError, ValueError, pa.ArrowException) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{source} cannot be read: {one_line(error)}") from error
        self.class_names = self._columns.class_names
        self.notes = (f"image is the column {columns.image}, label {columns.label or 'none'}",)

    def version(self) -> str:
        """A hash of the files' names, sizes and modification times, 16 hex digits."""
        word = f"{self._columns.image}/{self._columns.label}"
        return files.version(self._directory, ((word, file) for file in self._splits))

    def scan(self) -> Iterator[Image | LeftAside]:
        """Read file by file."""
        for one in self._splits.items():
            yield from _images_of(one, self._directory, self._columns)

    def images(self) -> beam.PTransform:
        """Read file by file."""
        return ReadFiles(self._splits, _images_of, self._directory, self._columns)

    def _labels(self, file: str, label: str) -> Iterator[pa.Array]:
        with _opened(os.path.join(self._directory, file)) as reader:
            yield from (batch.column(label) for batch in reader)


def _images_of(one: tuple[str, str | None], directory: str, columns: tables.Columns) -> Iterator[Image]:
    file, split = one
    try:
        with _opened(os.path.join(directory, file)) as reader:
            yield from tables.images_of(reader, columns, file, split)
    except (OSError, tf.errors.OpError, pa.ArrowException) as error:
        raise SourceError(f"huggingface:{directory}, {file} cannot be read: {one_line(error)}") from error


def _files(directory: str) -> dict[str, str | None]:
    """The Arrow files, relative to the folder -> their split, None if the hash decides."""
    if tf.io.gfile.exists(os.path.join(directory, "state.json")):
        return dict.fromkeys(_data_files(directory, ""))
    own = files.folders_in(directory)
    by_name = {name.lower(): name for name in own}
    train = next((by_name[name] for name in TRAIN_NAMES if name in by_name), None)
    held_out = next((by_name[name] for name in EVAL_NAMES if name in by_name), None)
    if train and held_out:
        chosen: dict[str, str | None] = {train: "train", held_out: "eval"}
    else:
        chosen = dict.fromkeys(own)
    return {file: split for name, split in chosen.items() for file in _data_files(directory, name)}


def _data_files(directory: str, split: str) -> list[str]:
    state = _json(os.path.join(directory, split, "state.json"))
    # Names only: what the file says must not lead out of the folder.
    return [os.path.join(split, os.path.basename(entry["filename"])) for entry in state["_data_files"]]


def _json(path: str) -> dict[str, Any]:
    with tf.io.gfile.GFile(path) as file:
        return json.load(file)


def _opened(path: str) -> pa.ipc.RecordBatchStreamReader:
    return pa.ipc.open_stream(tf.io.gfile.GFile(path, "rb") if files.is_remote(path) else pa.memory_map(path))
