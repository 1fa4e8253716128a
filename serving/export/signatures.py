"""What the three exporters share: input specs, range checks, and saving with metadata.

Evaluators, TokenTransform and the server know a model only by its signatures. Any tokenizer with the
signatures of `serving.export.tokenizer`, and any image model with those of `serving.export.generator`, can
replace ViT-VQGAN and VIM.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from serving.export import images
from serving.export.atomic import write_atomic
from serving.export.metadata import CHANNELS, Metadata
from serving.export.metadata import FILE as METADATA_FILE

IMAGE_BYTES = tf.TensorSpec([None], tf.string, "image_bytes")
# TensorFlow stores a graph's initialization among the signatures; it cannot be queried.
_INIT_OP = "__saved_model_init_op"

CLASS_ID = tf.TensorSpec([None], tf.int32, "class_id")


def pixels_spec(metadata: Metadata) -> tf.TensorSpec:
    """Pixels float32 [B, S, S, 3] in [0, 1]."""
    return tf.TensorSpec([None, metadata.image_size, metadata.image_size, CHANNELS], tf.float32, "pixels")


def tokens_spec(metadata: Metadata) -> tf.TensorSpec:
    """Tokens int32 [B, N], raster order."""
    return tf.TensorSpec([None, metadata.tokens], tf.int32, "tokens")


def read_metadata(model: Any) -> Metadata:
    """The metadata of a loaded SavedModel (`tf.saved_model.load`)."""
    describe = model.signatures["metadata"]
    _, inputs = describe.structured_input_signature
    text = describe(**{name: tf.zeros([1], spec.dtype) for name, spec in inputs.items()})["metadata"]
    return Metadata.from_json(tf.reshape(text, [-1])[0].numpy())


def read_signature_defs(path: str) -> dict[str, meta_graph_pb2.SignatureDef]:
    """The signatures of the SavedModel in a folder as it stores them, by name, without loading it."""
    with tf.io.gfile.GFile(os.path.join(path, tf.saved_model.SAVED_MODEL_FILENAME_PB), "rb") as file:
        saved_model = saved_model_pb2.SavedModel.FromString(file.read())
    return {
        name: proto
        for graph in saved_model.meta_graphs
        if tf.saved_model.SERVING in graph.meta_info_def.tags
        for name, proto in graph.signature_def.items()
        if name != _INIT_OP
    }


def checked_ids(name: str, ids: tf.Tensor, count: int) -> tf.Tensor:
    """The ids as given, behind a check in the graph that they are in [0, count)."""
    message = f"{name} must be in [0, {count})"
    checks = [
        tf.debugging.assert_non_negative(ids, message),
        tf.debugging.assert_less(ids, count, message),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(ids)


def grey_image(metadata: Metadata) -> dict[str, np.ndarray]:
    """A request of one grey PNG, for warm-up."""
    size = metadata.image_size
    return {"image_bytes": images.encode_batch(tf.fill([1, size, size, CHANNELS], 0.5)).numpy()}


def save(
    directory: str, model: tf.Module, metadata: Metadata, signatures: Mapping[str, Any], *, default: str
) -> None:
    """Save a SavedModel with `metadata`, as a signature and as a file, and a default signature.

    Args:
      directory: where to, a path of any file system that TensorFlow knows.
      model: holds every variable that the signatures use.
      metadata: the constant behind the signature `metadata`.
      signatures: traced functions by name.
      default: the one that is also `serving_default`, which bare clients of TF Serving ask for.
    """

    # With rows, although they change nothing: TF Serving's REST interface cannot ask a signature without
    # inputs (tensorflow/serving#1676), and with batching none of its interfaces can.
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.int32, "rows")])
    def describe(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"metadata": tf.fill(tf.shape(rows), metadata.to_json())}

    tf.saved_model.save(
        model,
        directory,
        signatures={**signatures, "metadata": describe, "serving_default": signatures[default]},
    )
    write_atomic(os.path.join(directory, METADATA_FILE), metadata.to_json())
