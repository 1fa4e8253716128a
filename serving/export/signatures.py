"""What the three exporters share: input specs, range checks, and saving with metadata.

Evaluators, TokenTransform and the server know a model only by its signatures. Any tokenizer with the
signatures of `serving.export.tokenizer`, and any image model with those of `serving.export.generator`, can
replace ViT-VQGAN and VIM.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from serving.export import images
from serving.export.atomic import write_atomic
from serving.export.metadata import CHANNELS, ERROR, Metadata
from serving.export.metadata import FILE as METADATA_FILE

IMAGE_BYTES = tf.TensorSpec([None], tf.string, "image_bytes")
# TensorFlow stores a graph's initialization among the signatures; it cannot be queried.
_INIT_OP = "__saved_model_init_op"

CLASS_ID = tf.TensorSpec([None], tf.int32, "class_id")
# Serialized, with the features of the Examples artifact.
EXAMPLES = tf.TensorSpec([None], tf.string, "examples")


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


def row_check(fits: tf.Tensor, must: str) -> tf.Operation:
    """Check every row in the graph; the error names the first one that does not fit.

    Args:
      fits: bool [B, ...].
      must: such as "class_id must be in [0, 10)".
    """
    rows = tf.reduce_all(fits, axis=list(range(1, fits.shape.rank or 1)))
    first = tf.reduce_sum(tf.math.cumprod(tf.cast(rows, tf.int32)))
    # Not one text: XLA, which trains on tokens made on the fly, has no operations on strings.
    return tf.debugging.Assert(tf.reduce_all(rows), [f"{must}, got another in row", first])


def checked_ids(name: str, ids: tf.Tensor, count: int) -> tf.Tensor:
    """The ids as given, behind a check in the graph that they are in [0, count)."""
    with tf.control_dependencies([row_check((ids >= 0) & (ids < count), f"{name} must be in [0, {count})")]):
        return tf.identity(ids)


def by_row(errors: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Blank the outputs of rows that failed, so that none is taken for an answer, and add the errors.

    Args:
      errors: string [B], empty for rows that are right.
      outputs: by name, [B, ...]. Of a row that failed, integers become -1, numbers NaN, strings empty.
    """
    failed = errors != ""
    return {**{name: _blanked(failed, output) for name, output in outputs.items()}, ERROR: errors}


def _blanked(failed: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    blank = "" if output.dtype == tf.string else math.nan if output.dtype.is_floating else -1
    failed = tf.reshape(failed, [-1, *[1] * (output.shape.rank - 1)])
    return tf.where(failed, tf.constant(blank, output.dtype), output)


def grey_image(metadata: Metadata) -> dict[str, np.ndarray]:
    """A request of one grey PNG, for warm-up."""
    size = metadata.image_size
    return {"image_bytes": images.encode_batch(tf.fill([1, size, size, CHANNELS], 0.5)).numpy()}


def grey_pixels(metadata: Metadata) -> dict[str, np.ndarray]:
    """A request of one grey image as pixels, for warm-up."""
    return {"pixels": np.full([1, *pixels_spec(metadata).shape[1:]], 0.5, np.float32)}


def grey_example(metadata: Metadata) -> dict[str, np.ndarray]:
    """A request of one tf.Example of a grey PNG of the first class, for warm-up."""
    example = tf.train.Example()
    example.features.feature["image/encoded"].bytes_list.value.extend(grey_image(metadata)["image_bytes"])
    example.features.feature["image/label"].int64_list.value.append(0)
    return {"examples": np.array([example.SerializeToString()], object)}


def save(directory: str, model: tf.Module, metadata: Metadata, signatures: Mapping[str, Any]) -> None:
    """Save a SavedModel with `metadata`, as a signature and as a file.

    Args:
      directory: where to, a path of any file system that TensorFlow knows.
      model: holds every variable that the signatures use.
      metadata: the constant behind the signature `metadata`.
      signatures: traced functions by name; `serving_default` takes tf.Examples, as TFX's components and
        others that know nothing of a model send them.
    """

    # With rows, although they change nothing: TF Serving's REST interface cannot ask a signature without
    # inputs (tensorflow/serving#1676), and with batching none of its interfaces can.
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.int32, "rows")])
    def describe(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"metadata": tf.fill(tf.shape(rows), metadata.to_json())}

    tf.saved_model.save(
        model,
        directory,
        signatures={**signatures, "metadata": describe},
    )
    write_atomic(os.path.join(directory, METADATA_FILE), metadata.to_json())


def exportable(model: Any, **loaded: Any) -> tf.Module:
    """A module that holds the variables of a Keras model, and SavedModels loaded beside it.

    Not the Keras model itself: Keras adds a signature of its own to whatever it is saved in, which fails for
    a model of more than one input.
    """
    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    for name, saved_model in loaded.items():
        setattr(module, name, saved_model)
    return module
