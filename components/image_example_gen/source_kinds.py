"""The kinds of `data.source`, declared once; nothing here imports Beam or TensorFlow.

To add one, write its module in `sources/` and its line here (docs/extending.md).
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from components.image_example_gen.splits import DEFAULT_SHARES
from serving.export.metadata import WHITE


@dataclass(frozen=True)
class SourceKind:
    """A kind of source.

    Attributes:
      form: how `data.source` names it; the part after the colon is a parameter.
      opener: "module:class" of a `sources.base.Source`, called with the parameter, if the form has one, and
        with the options in `reads`.
      reads: the fields of `SourceOptions`, which are keys of `data`, that it takes.
    """

    form: str
    opener: str
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceOptions:
    """How to read a source; a kind of source reads those that it names in `source_kinds`.

    Attributes:
      tfds_data_dir: where TensorFlow Datasets keeps its data; its own default if None.
      image_feature: the feature or column that holds the image; the source's usual one if None.
      label_feature: likewise for the label; "" for none.
    """

    tfds_data_dir: str | None = None
    image_feature: str | None = None
    label_feature: str | None = None


@dataclass(frozen=True)
class Reading:
    """How to read a source: what a survey needs of the configuration.

    Attributes:
      source: as `data.source`.
      options: how to read it.
      shares: of the splits, if the source has none of its own.
      max_broken: the fraction of images that may be broken.
      allow: checks of the classes that are left out.
      ground: the colour behind transparent pixels.
    """

    source: str
    options: SourceOptions = field(default_factory=SourceOptions)
    shares: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_SHARES))
    max_broken: float = 0.0
    allow: tuple[str, ...] = ()
    ground: str = WHITE


_SOURCES = "components.image_example_gen.sources"
_FEATURES = ("image_feature", "label_feature")

SOURCE_KINDS: dict[str, SourceKind] = {
    "digits": SourceKind("digits", f"{_SOURCES}.digits:Digits"),
    "folder": SourceKind("folder:DIR", f"{_SOURCES}.folder:Folder"),
    "csv": SourceKind("csv:FILE", f"{_SOURCES}.csv_file:CsvFile", _FEATURES),
    "tfds": SourceKind("tfds:NAME", f"{_SOURCES}.tfds:Tfds", ("tfds_data_dir", *_FEATURES)),
    "tfrecord": SourceKind("tfrecord:PATTERN", f"{_SOURCES}.tfrecord:TfRecord", _FEATURES),
    "tar": SourceKind("tar:PATTERN", f"{_SOURCES}.tar:Tar"),
    "parquet": SourceKind("parquet:PATTERN", f"{_SOURCES}.parquet:Parquet", _FEATURES),
    "huggingface": SourceKind("huggingface:DIR", f"{_SOURCES}.huggingface:HuggingFace", _FEATURES),
}
FORMS = ", ".join(kind.form for kind in SOURCE_KINDS.values())


def parse_source(source: str) -> tuple[SourceKind, str]:
    """The kind of a source and its parameter, "" for a kind without one.

    Raises:
      ValueError: the source has none of the known forms.
    """
    name, colon, parameter = source.partition(":")
    kind = SOURCE_KINDS.get(name)
    if kind is None or bool(colon and parameter) != (":" in kind.form) or (colon and not parameter):
        raise ValueError(f"must be one of {FORMS}")
    return kind, parameter


def matching_here(pattern: str) -> list[str]:
    """The sorted files of this machine that match an absolute pattern, or the one that has this very name."""
    if os.path.exists(pattern) and not os.path.isdir(pattern):
        return [pattern]
    # Brackets of a folder's name are no pattern, if there is such a folder.
    return sorted(glob.glob(pattern) or glob.glob(pattern.replace("[", "[[]")))
