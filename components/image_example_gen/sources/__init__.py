"""Image sources: opens the collection that `data.source` of the configuration names."""

from __future__ import annotations

import importlib

from components.image_example_gen.source_kinds import parse_source
from components.image_example_gen.sources.base import Source, SourceError

__all__ = ["Source", "SourceError", "open_source", "source_version"]


def open_source(source: str, tfds_data_dir: str | None = None) -> Source:
    """Open the source that `source` names (`source_kinds.SOURCE_KINDS`).

    Raises:
      SourceError: it is unknown, missing, empty or unreadable.
    """
    try:
        kind, parameter = parse_source(source)
    except ValueError as error:
        raise SourceError(f"source {error}, got {source!r}") from None
    module, _, name = kind.opener.partition(":")
    arguments = [parameter] if parameter else []
    if kind.takes_data_dir:
        return getattr(importlib.import_module(module), name)(*arguments, tfds_data_dir)
    return getattr(importlib.import_module(module), name)(*arguments)


def source_version(source: str, tfds_data_dir: str | None = None) -> str:
    """A cheap fingerprint of the source's current content; nothing is decoded and nothing downloaded.

    Passed to `ImageExampleGen` as `dataset_version`, it makes TFX's cache notice changed data.

    Raises:
      SourceError: as in `open_source`, so that a run can fail before it starts.
    """
    return open_source(source, tfds_data_dir).version()
