"""The interface of image sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import apache_beam as beam

from components.image_example_gen.images import Image


class SourceError(ValueError):
    """A source that cannot be read; the message is one line for the user."""


class LeftAside(NamedTuple):
    """A file or folder of a source that holds no image of it."""

    file: str
    reason: str


class Source(Protocol):
    """A collection of images, found but not yet read.

    Attributes:
      class_names: the name of each label; empty if unlabelled, or if only the records hold them.
      notes: what was decided about the source, a line each for the user.
      ready: whether `scan` finds the images now, without a download.
    """

    ready: bool
    class_names: tuple[str, ...]
    notes: tuple[str, ...]

    def version(self) -> str:
        """A cheap fingerprint of the current content, which changes with it, and of what is read of it."""

    def scan(self) -> Iterator[Image | LeftAside]:
        """Every image and everything that is left aside, read in this process and one at a time."""

    def images(self) -> beam.PTransform:
        """A transform of a pipeline's root to a PCollection of `images.Image`, read on the workers."""


class Shard(NamedTuple):
    """A file of many images.

    Attributes:
      path: where it is.
      name: its path below the folder that all files share, for keys.
      split: "train" or "eval"; None if the hash of a key decides.
    """

    path: str
    name: str
    split: str | None
