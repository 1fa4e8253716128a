"""A tokenizer SavedModel that somebody brings: whether it can take the place of stage 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from components.model_validator.answers import CONTRACT
from serving.export.fingerprint import fingerprint
from serving.export.metadata import Metadata
from serving.export.signatures import read_metadata


class TokenizerError(ValueError):
    """A SavedModel that cannot serve as the tokenizer; the message is one line for the user."""


def read(path: str, *, image_size: int) -> Metadata:
    """What the tokenizer at `path` says of itself.

    Raises:
      TokenizerError: there is no SavedModel, it is no tokenizer by the signatures of
        `serving.export.tokenizer`, or its images are not of `image_size` pixels.
    """
    _require_savedmodel(path)
    model = tf.saved_model.load(path)
    missing = sorted(_missing(model.signatures))
    if missing:
        raise TokenizerError(
            f"stage1.savedmodel must be a tokenizer as serving.export.tokenizer writes it, got {path} "
            f"without {', '.join(missing)}"
        )
    metadata = read_metadata(model)
    if metadata.kind != "tokenizer":
        raise TokenizerError(f"stage1.savedmodel {path} is a {metadata.kind} and no tokenizer")
    if metadata.image_size != image_size:
        raise TokenizerError(
            f"stage1.savedmodel {path} is for images of {metadata.image_size} pixels, and data.image_size "
            f"is {image_size}"
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
        raise TokenizerError(f"stage1.savedmodel {path}: there is no SavedModel in this folder")


def _missing(signatures: Mapping[str, Any]) -> Iterator[str]:
    """The signatures that a tokenizer lacks, and the outputs that one of them lacks."""
    for name, outputs in {**CONTRACT["tokenizer"], "metadata": ()}.items():
        if name not in signatures:
            yield name
            continue
        given = signatures[name].structured_outputs
        yield from (f"{name}.{output}" for output in outputs if output not in given)
