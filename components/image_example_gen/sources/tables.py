"""Images in the columns of Arrow tables, as Parquet files and Hugging Face's data sets hold them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from components.image_example_gen.classes import MAX_LABEL
from components.image_example_gen.images import Image
from components.image_example_gen.sources.base import SourceError

IMAGE, LABEL = "image", "label"


class Columns(NamedTuple):
    """The columns to read.

    Attributes:
      image: of bytes, or of {"bytes", "path"} as Hugging Face stores an image.
      label: of integers or strings; "" for none.
      class_names: of integers, if the table names them; of strings, all values.
    """

    image: str
    label: str
    class_names: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """The choice, a line for the user."""
        return (f"image is the column {self.image}, label {self.label or 'none'}",)


def choose(
    source: str,
    schema: pa.Schema,
    features: Mapping[str, Any],
    image_feature: str | None,
    label_feature: str | None,
) -> Columns:
    """The columns that were asked for, else `image` and `label`.

    Args:
      source: its name in errors.
      schema: of the table.
      features: Hugging Face's description of the columns, or empty.
      image_feature: as in `SourceOptions`.
      label_feature: likewise.

    Raises:
      SourceError: there is no such column, or it holds something else.
    """
    candidates = [field.name for field in schema if _is_image(field.type)]
    image = image_feature or IMAGE
    if image not in candidates:
        raise SourceError(
            f"{source} must say which column is the image: data.image_feature must be one of "
            f"{', '.join(candidates) or 'the columns of bytes, of which there is none'}, got {image!r}"
        )
    label = LABEL if label_feature is None and LABEL in schema.names else label_feature or ""
    like = label_like(schema.names)
    if label_feature is None and not label and like:
        raise SourceError(
            f"{source} must say which column is the label: data.label_feature must be one of "
            f'{", ".join(like)} or "" for none'
        )
    if label:
        labels = [field.name for field in schema if pa.types.is_integer(field.type) or _is_text(field.type)]
        if label not in labels:
            raise SourceError(f"data.label_feature must be one of {', '.join(labels)}, got {label!r}")
    named = (features or {}).get(label, {})
    return Columns(image, label, tuple(named.get("names") or ()) if isinstance(named, dict) else ())


def label_like(names: Iterable[str]) -> list[str]:
    """The names that may be those of labels, sorted."""
    return sorted(name for name in names if re.search("label|class|categor", name.lower()))


def with_text_labels(
    columns: Columns, schema: pa.Schema, values: Iterable[pa.ChunkedArray | pa.Array]
) -> Columns:
    """The columns with all values of a label of strings as class names, sorted."""
    if not columns.label or not _is_text(schema.field(columns.label).type):
        return columns
    found = {name for array in values for name in array.unique().to_pylist() if name is not None}
    return columns._replace(class_names=tuple(sorted(found)))


def images_of(
    batches: Iterable[pa.RecordBatch], columns: Columns, prefix: str, split: str | None
) -> Iterator[Image]:
    """The images of record batches; keys are a prefix and the number of the row.

    Raises:
      SourceError: an image or a label is not of its kind.
    """
    row = 0
    for batch in batches:
        images = batch.column(columns.image).to_pylist()
        labels: Sequence[Any] = [None] * len(images)
        if columns.label:
            labels = batch.column(columns.label).to_pylist()
        for image, label in zip(images, labels, strict=True):
            key = f"{prefix}/{row}"
            number = _number(label, columns, key)
            name = "" if number is None else _name(number, columns)
            yield Image(key, number, name, split, content=_content(image, key))
            row += 1


def _content(image: Any, key: str) -> bytes:
    content = image.get("bytes") if isinstance(image, dict) else image
    if isinstance(image, dict) and content is None:
        raise SourceError(f"{key} must hold the bytes of its image, got only the path {image.get('path')!r}")
    return content or b""


def _number(label: Any, columns: Columns, key: str) -> int | None:
    if label is None or label == -1:
        return None
    if isinstance(label, str):
        if label not in columns.class_names:
            raise SourceError(f"{key}: {columns.label} must be of one type in all files, got text {label!r}")
        return columns.class_names.index(label)
    most = len(columns.class_names) - 1 if columns.class_names else MAX_LABEL
    if not 0 <= label <= most:
        raise SourceError(f"{key}: {columns.label} must be -1 to {most}, got {label}")
    return int(label)


def _name(number: int, columns: Columns) -> str:
    return columns.class_names[number] if columns.class_names else str(number)


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
