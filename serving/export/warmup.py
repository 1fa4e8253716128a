"""Warm-up: requests stored with a SavedModel, which a server runs before it serves the version.

TF Serving and the embedded server read the same file, `assets.extra/tf_serving_warmup_requests`,
a TFRecord of PredictionLog, so the first user does not wait for the graph's first run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.export.atomic import atomic_path
from serving.wire.tensor_protos import from_protos, to_proto

PATH = os.path.join("assets.extra", "tf_serving_warmup_requests")
# TF Serving rejects a file with more.
MAX_REQUESTS = 1000


def write_warmup(model_dir: str, requests: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write one request per signature into the SavedModel at `model_dir`.

    Args:
      model_dir: the folder that holds saved_model.pb.
      requests: signature -> inputs by name, numeric arrays or object arrays of bytes.
    """
    path = os.path.join(model_dir, PATH)
    with atomic_path(path) as draft, tf.io.TFRecordWriter(draft) as writer:
        for signature, inputs in requests.items():
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.signature_name = signature
            for name, array in inputs.items():
                request.inputs[name].CopyFrom(to_proto(array))
            writer.write(log.SerializeToString())


def read_warmup(model_dir: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield the (signature, inputs) that `write_warmup` or another tool wrote; nothing without a file."""
    path = os.path.join(model_dir, PATH)
    if not tf.io.gfile.exists(path):
        return
    for record in tf.data.TFRecordDataset(path).take(MAX_REQUESTS):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        yield request.model_spec.signature_name, from_protos(request.inputs)
