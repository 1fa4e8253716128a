"""The kinds of `data.source`, declared once; nothing here imports Beam or TensorFlow.

To add one, write its module in `sources/` and its line here (docs/extending.md).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceKind:
    """A kind of source.

    Attributes:
      form: how `data.source` names it; the part after the colon is a parameter.
      opener: "module:class" of a `sources.base.Source`, called with the parameter, if the form has one, and
        with `tfds_data_dir` if `takes_data_dir`.
      takes_data_dir: whether it reads `data.tfds_data_dir`.
    """

    form: str
    opener: str
    takes_data_dir: bool = False


_SOURCES = "components.image_example_gen.sources"

SOURCE_KINDS: dict[str, SourceKind] = {
    "digits": SourceKind("digits", f"{_SOURCES}.digits:Digits"),
    "folder": SourceKind("folder:DIR", f"{_SOURCES}.folder:Folder"),
    "tfds": SourceKind("tfds:NAME", f"{_SOURCES}.tfds:Tfds", takes_data_dir=True),
    "tfrecord": SourceKind("tfrecord:PATTERN", f"{_SOURCES}.tfrecord:TfRecord"),
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
