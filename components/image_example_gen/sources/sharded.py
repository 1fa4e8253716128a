"""What sources of files with many images share: each file is read on the worker that gets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from components.image_example_gen.images import Image
from components.image_example_gen.sources import files
from components.image_example_gen.sources.base import LeftAside, Shard

# From a shard and further arguments to its images, and perhaps what is left aside.
Read = Callable[..., Iterator[Image | LeftAside]]


class ShardedSource:
    """The part of a `base.Source` that follows from its files and how one of them is read.

    Args:
      shards: the files.
      left_aside: files that are not read.
      read: reads one of them; a function of a module, as it is sent to workers.
      arguments: further ones for `read`, part of the fingerprint.
    """

    ready = True

    def __init__(self, shards: Sequence[Shard], left_aside: Sequence[LeftAside], read: Read, *arguments: Any):
        self._shards = shards
        self._left_aside = left_aside
        self._read = read
        self._arguments = arguments

    def version(self) -> str:
        """A hash of the files' names, splits, sizes and times, and of what is read, 16 hex digits."""
        own = ((f"{shard.split} {self._arguments!r}", shard.path) for shard in self._shards)
        return files.version("", own)

    def scan(self) -> Iterator[Image | LeftAside]:
        """Read file by file."""
        yield from self._left_aside
        for shard in self._shards:
            yield from self._read(shard, *self._arguments)

    def images(self) -> beam.PTransform:
        """Read file by file."""
        return _ReadShards(self._shards, self._read, *self._arguments)


class _ReadShards(beam.PTransform):
    """Read the images of each file on the worker that gets it.

    Args:
      shards: the files.
      read: from a shard and the arguments to its images, and perhaps what is left aside.
      arguments: further ones for `read`.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        read: Read,
        *arguments: Any,
    ):
        super().__init__()
        self._shards = list(shards)
        self._read = read
        self._arguments = arguments

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection:
        """The images of all files."""
        return (
            root
            | beam.Create(self._shards)
            | beam.Reshuffle()
            | beam.FlatMap(self._read, *self._arguments)
            | "Images" >> beam.Filter(_is_image)
        )


def _is_image(found: Image | LeftAside) -> bool:
    return isinstance(found, Image)
