"""Conversion between arrays and the TensorProtos of TF Serving's gRPC messages."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.wire.errors import invalid

# A TensorProto may hold a large shape and a single value that fills it: without a limit, a few bytes could
# become any amount of memory. 64 MiB, as much as a message may have.
MAX_BYTES = 64 * 2**20


def to_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Convert a numeric array, or an object array of bytes."""
    return tf.make_tensor_proto(array)


def spec_of(name: str, proto: tensor_pb2.TensorProto) -> tf.TensorSpec:
    """Dtype and shape of a TensorProto, whose values are not touched.

    Raises:
      RequestError: it has no known shape or dtype; the message names the input `name`.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if min(shape, default=0) < 0 or proto.tensor_shape.unknown_rank:
        raise invalid(f"shape of input {name} must be known, with sizes of 0 or more, got {shape}")
    try:
        return tf.TensorSpec(shape, tf.as_dtype(proto.dtype))
    except (TypeError, ValueError) as error:
        raise invalid(f"dtype of input {name} must be one of TensorFlow's, got {proto.dtype}") from error


def from_proto(name: str, proto: tensor_pb2.TensorProto) -> np.ndarray:
    """Convert a TensorProto to an array, strings to an object array of bytes.

    Raises:
      RequestError: the proto is not a tensor, or too large; the message names the input `name`.
    """
    spec = spec_of(name, proto)
    # A string takes a pointer beside its bytes, which the message has.
    size = prod(spec.shape.as_list()) * max(spec.dtype.size, 8 if spec.dtype == tf.string else 1)
    if size > MAX_BYTES:
        raise invalid(f"input {name} must have at most {MAX_BYTES} bytes, got {size}")
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, KeyError) as error:
        raise invalid(f"values of input {name} must fill the shape {spec.shape.as_list()}") from error


def specs_of(protos: Mapping[str, tensor_pb2.TensorProto]) -> dict[str, tf.TensorSpec]:
    """Dtypes and shapes of a message's tensors, by name."""
    return {name: spec_of(name, proto) for name, proto in protos.items()}


def from_protos(protos: Mapping[str, tensor_pb2.TensorProto]) -> dict[str, np.ndarray]:
    """Convert every tensor of a request or a response, by name.

    Raises:
      RequestError: one is not a tensor, or all together are too large.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, proto in protos.items():
        arrays[name] = from_proto(name, proto)
        if (size := sum(array.nbytes for array in arrays.values())) > MAX_BYTES:
            raise invalid(f"inputs must have at most {MAX_BYTES} bytes, got {size} up to {name}")
    return arrays
