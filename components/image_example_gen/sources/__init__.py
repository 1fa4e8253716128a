"""Image sources: opens the collection that `data.source` of the configuration names."""

from __future__ import annotations

import importlib

from components.image_example_gen.source_kinds import SourceOptions, parse_source
from components.image_example_gen.sources.base import LeftAside, Source, SourceError
from serving.wire.errors import one_line

__all__ = ["LeftAside", "Source", "SourceError", "SourceOptions", "open_source", "source_version"]


def open_source(source: str, options: SourceOptions = SourceOptions()) -> Source:
    """Open the source that `source` names (`source_kinds.SOURCE_KINDS`).

    Raises:
      SourceError: it is unknown, missing, empty or unreadable, or an option is not for its kind.
    """
    try:
        kind, parameter = parse_source(source)
    except ValueError as error:
        raise SourceError(f"source {error}, got {source!r}") from None
    for name in ("image_feature", "label_feature"):
        if getattr(options, name) is not None and name not in kind.reads:
            raise SourceError(f"data.{name} must be absent for {kind.form}, got {getattr(options, name)!r}")
    module, _, name = kind.opener.partition(":")
    arguments = [parameter] if parameter else []
    chosen = {name: getattr(options, name) for name in kind.reads}
    try:
        return getattr(importlib.import_module(module), name)(*arguments, **chosen)
    except SourceError:
        raise
    # A source of somebody else's may be faulty in ways that no library documents.
    except Exception as error:
        raise SourceError(f"{source} cannot be read: {one_line(error)}") from error


def source_version(source: str, options: SourceOptions = SourceOptions()) -> str:
    """A cheap fingerprint of the source's current content; nothing is decoded and nothing downloaded.

    Passed to `ImageExampleGen` as `dataset_version`, it makes TFX's cache notice changed data.

    Raises:
      SourceError: as in `open_source`, so that a run can fail before it starts.
    """
    return open_source(source, options).version()
