"""Checks of a signature's answer, by the names of its outputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from serving.export.metadata import ERROR, Metadata

# The signatures of each kind of model and their required outputs (`serving.export.tokenizer` and siblings).
CONTRACT: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "tokenizer": {
        "encode": ("tokens",),
        "encode_pixels": ("tokens",),
        "decode": ("image_bytes",),
        "decode_pixels": ("pixels", "mu", "log_scale"),
        "reconstruct": ("image_bytes",),
        "serving_default": (),
    },
    "generator": {
        "generate": ("image_bytes", "tokens"),
        "generate_linear": ("image_bytes", "tokens"),
        "complete": ("image_bytes", "tokens"),
        "score": ("log_likelihood", "bits_per_token"),
        "features": ("features",),
        "serving_default": (),
    },
    "classifier": {
        "classify": ("logits", "probabilities", "features"),
        "classify_pixels": ("logits", "probabilities", "features"),
        "serving_default": (),
    },
}


class WrongAnswerError(ValueError):
    """A signature's answer violates its contract; the message is one line."""


def check(signature: str, answer: Mapping[str, tf.Tensor], batch: int, metadata: Metadata) -> None:
    """Check every output of one answer to `batch` rows: dtype, shape, finiteness, range, images.

    Raises:
      WrongAnswerError: an output is not what it must be; the message says both.
    """
    missing = sorted(set(CONTRACT[metadata.kind].get(signature, ())) - set(answer))
    if missing:
        raise WrongAnswerError(f"must have the outputs {missing}, got an answer without them")
    for name, tensor in sorted(answer.items()):
        dtype, shape = _expected(name, tensor, metadata)
        if tensor.dtype != dtype or not tf.TensorShape([batch, *shape]).is_compatible_with(tensor.shape):
            raise WrongAnswerError(
                f"{name} must be {dtype.name} {[batch, *shape]}, got {tensor.dtype.name} {tensor.shape}"
            )
        if tensor.dtype.is_floating and not np.isfinite(tensor.numpy()).all():
            raise WrongAnswerError(f"{name} must be finite, got NaN or infinity")
        if name in ("tokens", "neighbors"):
            _check_range(name, tensor, 0, metadata.codebook_size - 1)
        if name in ("pixels", "probabilities"):
            _check_range(name, tensor, 0.0, 1.0)
        if name == ERROR and (refused := set(tensor.numpy()) - {b""}):
            raise WrongAnswerError(f"error must be empty for images that are right, got {refused.pop()!r}")
        if name == "image_bytes":
            _check_pictures(tensor, metadata.image_size)


def check_same_draws(together: Mapping[str, tf.Tensor], alone: Mapping[str, tf.Tensor]) -> None:
    """Check that the last row gets the same tokens and image in its batch as alone."""
    for name, depends in (("tokens", "tokens depend"), ("image_bytes", "image depends")):
        if name in together and not np.array_equal(together[name][-1:], alone[name]):
            raise WrongAnswerError(f"a row's {depends} on the other rows of its batch, with the same seed")


def _expected(name: str, tensor: tf.Tensor, metadata: Metadata) -> tuple[tf.DType, tuple[int | None, ...]]:
    """The dtype of an output and the shape of one row; None means any size."""
    picture = (metadata.image_size, metadata.image_size, 3)
    known: dict[str, tuple[tf.DType, tuple[int | None, ...]]] = {
        "tokens": (tf.int32, (metadata.tokens,)),
        "image_bytes": (tf.string, ()),
        ERROR: (tf.string, ()),
        "pixels": (tf.float32, picture),
        "mu": (tf.float32, picture),
        "log_scale": (tf.float32, picture),
        "log_likelihood": (tf.float32, ()),
        "bits_per_token": (tf.float32, ()),
        "logits": (tf.float32, (len(metadata.class_names),)),
        "probabilities": (tf.float32, (len(metadata.class_names),)),
        # [L, D] of all blocks for a Transformer (generator), [D] of the last layer otherwise.
        "features": (tf.float32, (None, None) if metadata.kind == "generator" else (None,)),
    }
    return known.get(name, (tensor.dtype, (None,) * (tensor.shape.rank - 1)))


def _check_range(name: str, tensor: tf.Tensor, low: float, high: float) -> None:
    least, most = tensor.numpy().min(), tensor.numpy().max()
    if least < low or most > high:
        raise WrongAnswerError(f"{name} must be in [{low}, {high}], got {least} to {most}")


def _check_pictures(image_bytes: tf.Tensor, size: int) -> None:
    for one in image_bytes:
        try:
            shape = tuple(tf.io.decode_png(one).shape)
        except tf.errors.InvalidArgumentError:
            raise WrongAnswerError("image_bytes must be a PNG, got other bytes") from None
        if shape != (size, size, 3):
            raise WrongAnswerError(f"image_bytes must decode to {(size, size, 3)}, got {shape}")
