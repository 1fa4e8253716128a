"""Conversion between arrays and the TensorProtos of TF Serving's gRPC messages."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.wire.errors import invalid

# 64 MiB of float32. A TensorProto may hold a large shape and a single value that fills it: without a
# limit, a few bytes could become any amount of memory.
MAX_ELEMENTS = 16 * 2**20


def to_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Convert a numeric array, or an object array of bytes."""
    return tf.make_tensor_proto(array)


def from_proto(name: str, proto: tensor_pb2.TensorProto) -> np.ndarray:
    """Convert a TensorProto to an array, strings to an object array of bytes.

    Raises:
      RequestError: the proto is not a tensor, or too large; the message names the input `name`.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if min(shape, default=0) < 0 or proto.tensor_shape.unknown_rank:
        raise invalid(f"shape of input {name} must be known, with sizes of 0 or more, got {shape}")
    if prod(shape) > MAX_ELEMENTS:
        raise invalid(f"input {name} must have at most {MAX_ELEMENTS} elements, got {prod(shape)}")
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, KeyError) as error:
        raise invalid(f"values of input {name} must fill the shape {shape}") from error


def from_protos(protos: Mapping[str, tensor_pb2.TensorProto]) -> dict[str, np.ndarray]:
    """Convert every tensor of a request or a response, by name."""
    return {name: from_proto(name, proto) for name, proto in protos.items()}
