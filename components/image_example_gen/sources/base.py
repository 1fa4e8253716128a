"""What every source of images offers."""

from __future__ import annotations

from typing import Protocol

import apache_beam as beam


class SourceError(ValueError):
    """A source that cannot be read; the message is one line for the user."""


class Source(Protocol):
    """A collection of images, found but not yet read.

    Attributes:
      class_names: the name of each label; empty when unlabelled, or when only the records tell.
    """

    class_names: tuple[str, ...]

    def version(self) -> str:
        """A cheap fingerprint of what is there now: another one after any change."""

    def images(self) -> beam.PTransform:
        """From the root of a pipeline to a PCollection of `images.Image`, read in the workers."""
