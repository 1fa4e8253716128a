"""Arrays as the TensorProtos of TF Serving's gRPC messages, and back."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.wire.errors import invalid

# A TensorProto may state a large shape and a single value that fills it: a few bytes would
# otherwise become any amount of memory. 64 MiB of float32.
MAX_ELEMENTS = 16 * 2**20


def to_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Any numeric array, or an object array of bytes."""
    return tf.make_tensor_proto(array)


def from_proto(name: str, proto: tensor_pb2.TensorProto) -> np.ndarray:
    """The array of a TensorProto, strings as an object array of bytes.

    Raises:
      RequestError: where the proto is no tensor, or too large; `name` tells which input it is.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if min(shape, default=0) < 0 or proto.tensor_shape.unknown_rank:
        raise invalid(f"input {name} has the shape {shape}, allowed are sizes of 0 or more")
    if prod(shape) > MAX_ELEMENTS:
        raise invalid(f"input {name} has {prod(shape)} elements, allowed are at most {MAX_ELEMENTS}")
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, KeyError) as error:
        raise invalid(f"input {name} is no tensor: its values do not fill the shape {shape}") from error


def from_protos(protos: Mapping[str, tensor_pb2.TensorProto]) -> dict[str, np.ndarray]:
    """Every array of a request or a response, by name."""
    return {name: from_proto(name, proto) for name, proto in protos.items()}
