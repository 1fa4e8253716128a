"""The tokenizer SavedModel: `encode`, `encode_pixels`, `decode`, `decode_pixels`, `reconstruct`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from serving.export import images, request_images
from serving.export.metadata import Metadata
from serving.export.signatures import (
    IMAGE_BYTES,
    checked_ids,
    grey_image,
    pixels_spec,
    save,
    tokens_spec,
)
from serving.export.warmup import write_warmup


def export_tokenizer(
    directory: str,
    model: tf.Module,
    metadata: Metadata,
    *,
    encode: Callable[[tf.Tensor], tf.Tensor],
    decode: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
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
    """
    size = metadata.image_size

    @tf.function(autograph=False, input_signature=[IMAGE_BYTES])
    def encode_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"tokens": encode(request_images.decode_batch(image_bytes, size, metadata.ground))}

    @tf.function(autograph=False, input_signature=[pixels_spec(metadata)])
    def encode_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        # NaN is in no range, and would be the token 0 everywhere.
        inside = tf.reduce_all((pixels >= 0.0) & (pixels <= 1.0))
        with tf.control_dependencies([tf.debugging.Assert(inside, ["pixels must be in [0, 1]"])]):
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
        pixels, _, _ = decode(encode(request_images.decode_batch(image_bytes, size, metadata.ground)))
        return {"image_bytes": images.encode_batch(pixels)}

    signatures = {
        "encode": encode_bytes,
        "encode_pixels": encode_pixels,
        "decode": decode_bytes,
        "decode_pixels": decode_pixels,
        "reconstruct": reconstruct,
    }
    save(directory, model, metadata, signatures, default="reconstruct")
    image = grey_image(metadata)
    tokens = {"tokens": np.zeros([1, metadata.tokens], np.int32)}
    pixels = {"pixels": np.full([1, *pixels_spec(metadata).shape[1:]], 0.5, np.float32)}
    write_warmup(
        directory,
        {
            "encode": image,
            "encode_pixels": pixels,
            "decode": tokens,
            "decode_pixels": tokens,
            "reconstruct": image,
            "serving_default": image,
        },
    )
