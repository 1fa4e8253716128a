"""The classifier SavedModel: `classify`, `classify_pixels`, and `serving_default` of tf.Examples."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from serving.export import request_images
from serving.export.metadata import Metadata
from serving.export.signatures import (
    EXAMPLES,
    IMAGE_BYTES,
    by_row,
    grey_example,
    grey_image,
    grey_pixels,
    pixels_spec,
    save,
)
from serving.export.warmup import write_warmup

# The classes of a classifier of images without labels (Gidaris et al. 2018): to predict them, a network must
# learn content.
ROTATIONS = ("0 degrees", "90 degrees", "180 degrees", "270 degrees")


def export_classifier(
    directory: str,
    model: tf.Module,
    metadata: Metadata,
    *,
    classify: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
) -> None:
    """Write the classifier SavedModel and its warm-up requests.

    Args:
      directory: where to, a path of any file system that TensorFlow knows.
      model: holds every variable that `classify` uses.
      metadata: `image_size` S and the classes C fix the shapes.
      classify: pixels float32 [B, S, S, 3] in [0, 1] -> (logits float32 [B, C], features float32 [B, D]),
        the features being the pooled activations in front of the last layer.
    """

    def answer(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, features = classify(pixels)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits), "features": features}

    @tf.function(autograph=False, input_signature=[IMAGE_BYTES])
    def classify_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels, errors = request_images.decode_batch(
            image_bytes, metadata.image_size, metadata.ground, metadata.max_image_pixels
        )
        return by_row(errors, answer(pixels))

    @tf.function(autograph=False, input_signature=[pixels_spec(metadata)])
    def classify_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer(pixels)

    @tf.function(autograph=False, input_signature=[EXAMPLES])
    def of_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels, errors, _ = request_images.decode_examples(
            examples, metadata.image_size, metadata.ground, metadata.max_image_pixels
        )
        return by_row(errors, answer(pixels))

    signatures = {
        "classify": classify_bytes,
        "classify_pixels": classify_pixels,
        "serving_default": of_examples,
    }
    save(directory, model, metadata, signatures)
    write_warmup(
        directory,
        {
            "classify": grey_image(metadata),
            "classify_pixels": grey_pixels(metadata),
            "serving_default": grey_example(metadata),
        },
    )
