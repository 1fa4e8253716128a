"""What a signature's answer must be, by the names of its outputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from serving.export.metadata import Metadata

# The signatures of each kind of model, and what each must answer at least (`serving.export.signatures`).
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
        "score": ("log_likelihood", "bits_per_dim"),
        "features": ("features",),
        "serving_default": (),
    },
    "classifier": {
        "classify": ("logits", "features"),
        "classify_pixels": ("logits", "features"),
        "serving_default": (),
    },
}


class WrongAnswerError(ValueError):
    """A signature answered something else than its contract says; the message is one line."""


def check(signature: str, answer: Mapping[str, tf.Tensor], batch: int, metadata: Metadata) -> None:
    """Checks every output of one answer to `batch` rows: dtype, shape, finiteness, range, pictures.

    Raises `WrongAnswerError` naming the output, what it is and what it must be.
    """
    missing = sorted(set(CONTRACT[metadata.kind].get(signature, ())) - set(answer))
    if missing:
        raise WrongAnswerError(f"answers without {missing}")
    for name, tensor in sorted(answer.items()):
        dtype, shape = _expected(name, tensor, metadata)
        if tensor.dtype != dtype or not tf.TensorShape([batch, *shape]).is_compatible_with(tensor.shape):
            raise WrongAnswerError(
                f"{name} is {tensor.dtype.name} {tensor.shape}, not {dtype.name} {[batch, *shape]}"
            )
        if tensor.dtype.is_floating and not np.isfinite(tensor.numpy()).all():
            raise WrongAnswerError(f"{name} holds values that are not finite")
        if name == "tokens":
            _check_range(name, tensor, 0, metadata.codebook_size - 1)
        if name == "pixels":
            _check_range(name, tensor, 0.0, 1.0)
        if name == "image_bytes":
            _check_pictures(tensor, metadata.image_size)


def check_same_draws(together: Mapping[str, tf.Tensor], alone: Mapping[str, tf.Tensor]) -> None:
    """Checks that the last row drew the same tokens and the same picture in its batch as it drew alone."""
    for name, depends in (("tokens", "tokens depend"), ("image_bytes", "picture depends")):
        if name in together and not np.array_equal(together[name][-1:], alone[name]):
            raise WrongAnswerError(f"a row's {depends} on the rows beside it, with the same seed")


def _expected(name: str, tensor: tf.Tensor, metadata: Metadata) -> tuple[tf.DType, tuple[int | None, ...]]:
    """The dtype of an output and the shape of one row; None is any size."""
    picture = (metadata.image_size, metadata.image_size, 3)
    known: dict[str, tuple[tf.DType, tuple[int | None, ...]]] = {
        "tokens": (tf.int32, (metadata.tokens,)),
        "image_bytes": (tf.string, ()),
        "pixels": (tf.float32, picture),
        "mu": (tf.float32, picture),
        "log_scale": (tf.float32, picture),
        "log_likelihood": (tf.float32, ()),
        "bits_per_dim": (tf.float32, ()),
        "logits": (tf.float32, (len(metadata.class_names),)),
        # Of every block [L, D] where they come from a Transformer, of the last layer [D] otherwise.
        "features": (tf.float32, (None, None) if metadata.kind == "generator" else (None,)),
    }
    return known.get(name, (tensor.dtype, (None,) * (tensor.shape.rank - 1)))


def _check_range(name: str, tensor: tf.Tensor, low: float, high: float) -> None:
    least, most = tensor.numpy().min(), tensor.numpy().max()
    if least < low or most > high:
        raise WrongAnswerError(f"{name} reach from {least} to {most}, allowed is {low} to {high}")


def _check_pictures(image_bytes: tf.Tensor, size: int) -> None:
    for one in image_bytes:
        try:
            shape = tuple(tf.io.decode_png(one).shape)
        except tf.errors.InvalidArgumentError:
            raise WrongAnswerError("image_bytes is not a PNG") from None
        if shape != (size, size, 3):
            raise WrongAnswerError(f"image_bytes decodes to {shape}, not {(size, size, 3)}")
