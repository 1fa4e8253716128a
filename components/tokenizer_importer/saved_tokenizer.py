"""Checks whether a SavedModel can replace the tokenizer of stage 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from components.model_validator.answers import CONTRACT
from serving.export.fingerprint import fingerprint
from serving.export.metadata import Metadata
from serving.export.signatures import read_metadata


class TokenizerError(ValueError):
    """A SavedModel that cannot be the tokenizer; the message is one line for the user."""


def read(path: str, *, image_size: int) -> Metadata:
    """Check the tokenizer at `path` and return its metadata.

    Raises:
      TokenizerError: there is no SavedModel, it lacks signatures of `serving.export.tokenizer`, it is not a
        tokenizer, or its images do not have `image_size` pixels a side.
    """
    _require_savedmodel(path)
    model = tf.saved_model.load(path)
    missing = sorted(_missing(model.signatures))
    if missing:
        raise TokenizerError(
            f"stage1.savedmodel must have the signatures of serving.export.tokenizer, got {path} "
            f"without {', '.join(missing)}"
        )
    metadata = read_metadata(model)
    if metadata.kind != "tokenizer":
        raise TokenizerError(f"stage1.savedmodel must be a tokenizer, got the {metadata.kind} {path}")
    if metadata.image_size != image_size:
        raise TokenizerError(
            f"stage1.savedmodel must be for images of {image_size} pixels (data.image_size), got {path} "
            f"for {metadata.image_size} pixels"
        )
    return metadata


def version(path: str) -> str:
    """A fingerprint of the tokenizer at `path`, for `TokenizerImporter`; the model is not loaded.

    Raises:
      TokenizerError: there is no SavedModel.
    """
    _require_savedmodel(path)
    return fingerprint(path)


def _require_savedmodel(path: str) -> None:
    try:
        found = tf.saved_model.contains_saved_model(path)
    except tf.errors.OpError as error:
        raise TokenizerError(f"stage1.savedmodel {path} cannot be read: {error.message}") from error
    if not found:
        raise TokenizerError(f"stage1.savedmodel must be the folder of a SavedModel, got {path}")


def _missing(signatures: Mapping[str, Any]) -> Iterator[str]:
    """Yield missing signatures, and missing outputs as "signature.output"."""
    for name, outputs in {**CONTRACT["tokenizer"], "metadata": ()}.items():
        if name not in signatures:
            yield name
            continue
        given = signatures[name].structured_outputs
        yield from (f"{name}.{output}" for output in outputs if output not in given)
