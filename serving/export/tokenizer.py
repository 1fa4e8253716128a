"""The tokenizer SavedModel.

| signature | what |
|---|---|
| `encode`, `encode_pixels` | images to tokens |
| `decode`, `decode_pixels` | tokens to images |
| `reconstruct` | images to what their tokens keep of them |
| `serving_default` | tf.Examples of images to tokens |
| `neighbors` | the codes nearest to a token's; for tokenizers that can say it |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from serving.export import images, request_images
from serving.export.metadata import Metadata
from serving.export.signatures import (
    EXAMPLES,
    IMAGE_BYTES,
    by_row,
    checked_ids,
    grey_example,
    grey_image,
    grey_pixels,
    pixels_spec,
    row_check,
    save,
    tokens_spec,
)
from serving.export.warmup import write_warmup

# Codes that `neighbors` returns, if the codebook has as many others.
NEIGHBORS = 16


def export_tokenizer(
    directory: str,
    model: tf.Module,
    metadata: Metadata,
    *,
    encode: Callable[[tf.Tensor], tf.Tensor],
    decode: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
    codes: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> None:
    """Write the tokenizer SavedModel and its warm-up requests.

    Args:
      directory: where to, a path of any file system that TensorFlow knows.
      model: holds every variable that `encode` and `decode` use.
      metadata: its `image_size` S and `tokens` N fix the shapes.
      encode: pixels float32 [B, S, S, 3] in [0, 1] -> tokens int32 [B, N], raster order.
      decode: tokens int32 [B, N] -> (pixels in [0, 1], mu, log_scale), float32 [B, S, S, 3] each: the
        image, and location and ln b of its logit-laplace density; ln b is 0 where the model has a
        constant scale.
      codes: tokens int32 [B, N] -> their codes float32 [B, N, D], for `neighbors`; without it the model has
        no such signature.
    """
    size = metadata.image_size

    @tf.function(autograph=False, input_signature=[IMAGE_BYTES])
    def encode_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels, errors = request_images.decode_batch(
            image_bytes, size, metadata.ground, metadata.max_image_pixels
        )
        return by_row(errors, {"tokens": encode(pixels)})

    @tf.function(autograph=False, input_signature=[pixels_spec(metadata)])
    def encode_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        # NaN is in no range, and would be the token 0 everywhere.
        inside = row_check((pixels >= 0.0) & (pixels <= 1.0), "pixels must be in [0, 1]")
        with tf.control_dependencies([inside]):
            return {"tokens": encode(tf.identity(pixels))}

    @tf.function(autograph=False, input_signature=[tokens_spec(metadata)])
    def decode_bytes(tokens: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels, _, _ = decode(checked_ids("tokens", tokens, metadata.codebook_size))
        return {"image_bytes": images.encode_batch(pixels)}

    @tf.function(autograph=False, input_signature=[tokens_spec(metadata)])
    def decode_pixels(tokens: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels, mu, log_scale = decode(checked_ids("tokens", tokens, metadata.codebook_size))
        return {"pixels": pixels, "mu": mu, "log_scale": log_scale}

    @tf.function(autograph=False, input_signature=[IMAGE_BYTES])
    def reconstruct(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        original, errors = request_images.decode_batch(
            image_bytes, size, metadata.ground, metadata.max_image_pixels
        )
        pixels, _, _ = decode(encode(original))
        return by_row(errors, {"image_bytes": images.encode_batch(pixels)})

    @tf.function(autograph=False, input_signature=[EXAMPLES])
    def encode_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels, errors, _ = request_images.decode_examples(
            examples, size, metadata.ground, metadata.max_image_pixels
        )
        return by_row(errors, {"tokens": encode(pixels)})

    signatures = {
        "encode": encode_bytes,
        "encode_pixels": encode_pixels,
        "decode": decode_bytes,
        "decode_pixels": decode_pixels,
        "reconstruct": reconstruct,
        "serving_default": encode_examples,
        **({"neighbors": _neighbors(codes, metadata.codebook_size)} if codes else {}),
    }
    save(directory, model, metadata, signatures)
    image = grey_image(metadata)
    tokens = {"tokens": np.zeros([1, metadata.tokens], np.int32)}
    write_warmup(
        directory,
        {
            "encode": image,
            "encode_pixels": grey_pixels(metadata),
            "decode": tokens,
            "decode_pixels": tokens,
            "reconstruct": image,
            **({"neighbors": {"token": np.zeros([1], np.int32)}} if codes else {}),
            "serving_default": grey_example(metadata),
        },
    )


def _neighbors(codes: Callable[[tf.Tensor], tf.Tensor], size: int) -> Any:
    """The other codes nearest to a token's, the nearest first, and their Euclidean distances."""

    def of_one(token: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        table = codes(tf.range(size)[tf.newaxis])[0]
        squares = tf.reduce_sum(tf.square(table - table[token]), axis=-1)
        # Not its own: another code may be at the same place.
        squares = tf.where(tf.range(size) == token, math.inf, squares)
        nearest, tokens = tf.math.top_k(-squares, k=min(NEIGHBORS, size - 1))
        return tokens, tf.sqrt(-nearest)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.int32, "token")])
    def neighbors(token: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = [tf.TensorSpec([min(NEIGHBORS, size - 1)], dtype) for dtype in (tf.int32, tf.float32)]
        tokens, distances = tf.map_fn(
            of_one, checked_ids("token", token, size), fn_output_signature=tuple(rows)
        )
        return {"neighbors": tokens, "distances": distances}

    return neighbors
