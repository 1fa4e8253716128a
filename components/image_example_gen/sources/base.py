"""The interface of image sources."""

from __future__ import annotations

from typing import Protocol

import apache_beam as beam


class SourceError(ValueError):
    """A source that cannot be read; the message is one line for the user."""


class Source(Protocol):
    """A collection of images, found but not yet read.

    Attributes:
      class_names: the name of each label; empty if unlabelled, or if only the records hold them.
    """

    class_names: tuple[str, ...]

    def version(self) -> str:
        """A cheap fingerprint of the current content, which changes with it."""

    def images(self) -> beam.PTransform:
        """A transform of a pipeline's root to a PCollection of `images.Image`, read on the workers."""
