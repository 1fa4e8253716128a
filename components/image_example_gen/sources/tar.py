"""The source `tar:PATTERN`: shards as WebDataset writes them.

Members of a shard whose names differ only behind the first dot of the file name are one sample: an image
(`0001.jpg`) and perhaps its label (`0001.cls`, an integer). The first word of the shards' names tells the
splits (`train-0000.tar`, `val-0000.tar`).
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, cast

import apache_beam as beam
import tensorflow as tf

from components.image_example_gen.images import Image
from components.image_example_gen.sources import files
from components.image_example_gen.sources.base import LeftAside, ReadFiles, SourceError
from components.image_example_gen.sources.tfrecord import MAX_LABEL
from components.image_example_gen.splits import splits_of_files
from serving.wire.errors import one_line

LABEL = "cls"


class Tar:
    """Images of all shards that match a pattern; keys are the shard's name and the sample's."""

    ready = True
    class_names: tuple[str, ...] = ()  # only the samples hold them
    notes: tuple[str, ...] = ()

    def __init__(self, pattern: str):
        try:
            self._files = files.matching(pattern)
        except (OSError, tf.errors.OpError) as error:
            raise SourceError(f"tar:{pattern} cannot be read: {one_line(error)}") from error
        if not self._files:
            raise SourceError(f"tar:{pattern} must match a file, got none")
        self._splits = splits_of_files(self._files)

    def version(self) -> str:
        """A hash of the files' names, sizes and modification times, 16 hex digits."""
        return files.version("", (("", file) for file in self._files))

    def scan(self) -> Iterator[Image | LeftAside]:
        """Read shard by shard."""
        for one in self._splits.items():
            yield from _samples(one)

    def images(self) -> beam.PTransform:
        """Read shard by shard."""
        return ReadFiles(self._splits, _images_of)


def _images_of(one: tuple[str, str | None]) -> Iterator[Image]:
    return (found for found in _samples(one) if isinstance(found, Image))


def _samples(one: tuple[str, str | None]) -> Iterator[Image | LeftAside]:
    file, split = one
    try:
        # As a stream: a shard may be read over a network, and is read once.
        with (
            tf.io.gfile.GFile(file, "rb") as content,
            tarfile.open(fileobj=cast(BinaryIO, content), mode="r|*") as archive,
        ):
            yield from _grouped(archive, os.path.basename(file), split)
    except (tarfile.TarError, EOFError, tf.errors.OpError) as error:
        raise SourceError(f"tar:{file} must be a tar archive: {one_line(error)}") from error


def _grouped(archive: tarfile.TarFile, shard: str, split: str | None) -> Iterator[Image | LeftAside]:
    """Group neighbours of one name, as WebDataset does."""
    name = ""
    sample: dict[str, bytes] = {}
    for member in archive:
        if not member.isfile():
            continue
        folder, own = posixpath.split(member.name)
        stem, _, suffix = own.partition(".")
        key = posixpath.join(folder, stem)
        if key != name:
            yield from _sample(f"{shard}/{name}", sample, split)
            name, sample = key, {}
        suffix = suffix.lower()
        if suffix == LABEL or f".{suffix}" in files.IMAGE_SUFFIXES:
            content = archive.extractfile(member)
            sample[suffix] = content.read() if content else b""
        else:
            reason = f"has the suffix .{suffix}, which no known image format has"
            yield LeftAside(f"{shard}/{member.name}", reason)
    yield from _sample(f"{shard}/{name}", sample, split)


def _sample(key: str, sample: dict[str, bytes], split: str | None) -> Iterator[Image]:
    images = [suffix for suffix in sample if suffix != LABEL]
    if not images:
        return
    if len(images) > 1:
        raise SourceError(f"tar: {key} must have one image, got {', '.join(sorted(images))}")
    label = None
    if LABEL in sample:
        text = sample[LABEL].strip()
        if not text.isdigit() or int(text) > MAX_LABEL:
            raise SourceError(f"tar: {key}.{LABEL} must be 0 to {MAX_LABEL}, got {text[:40]!r}")
        label = int(text)
    yield Image(key, label, "" if label is None else str(label), split, content=sample[images[0]])
