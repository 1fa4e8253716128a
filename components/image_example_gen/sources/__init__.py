"""Sources of images: a name from the configuration becomes a collection to read."""

from __future__ import annotations

from components.image_example_gen.sources.base import Source, SourceError
from components.image_example_gen.sources.digits import Digits
from components.image_example_gen.sources.folder import Folder
from components.image_example_gen.sources.tfds import Tfds
from components.image_example_gen.sources.tfrecord import TfRecord

__all__ = ["Source", "SourceError", "open_source", "source_version"]


def open_source(source: str, tfds_data_dir: str | None = None) -> Source:
    """The source that `source` names: digits, folder:DIR, tfds:NAME or tfrecord:PATTERN.

    Raises:
      SourceError: where it is unknown, missing, empty or unreadable.
    """
    kind, _, rest = source.partition(":")
    match kind:
        case "digits" if not rest:
            return Digits()
        case "folder" if rest:
            return Folder(rest)
        case "tfds" if rest:
            return Tfds(rest, tfds_data_dir)
        case "tfrecord" if rest:
            return TfRecord(rest)
    raise SourceError(
        f"unknown source {source!r}: allowed are digits, folder:DIR, tfds:NAME and tfrecord:PATTERN"
    )


def source_version(source: str, tfds_data_dir: str | None = None) -> str:
    """A cheap fingerprint of what `source` holds now; nothing is decoded and nothing downloaded.

    Given to `ImageExampleGen` as `dataset_version`, it makes TFX's cache notice changed data.

    Raises:
      SourceError: as `open_source` does, so that a run can stop before it starts.
    """
    return open_source(source, tfds_data_dir).version()
