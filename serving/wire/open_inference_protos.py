"""The messages of the Open Inference Protocol over gRPC (version 2, package `inference`).

They are declared here, since the packages that bring them need other releases of what TensorFlow needs, and
in a pool of their own, since a program may have loaded one of those packages too. Parameters, which mean
nothing to our models, are not declared: protocol buffers step over fields that they do not know.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, message_factory

from serving.wire.errors import invalid
from serving.wire.open_inference import BYTES, DTYPES, MOST_SIZES, checked, datatype, filled, packed, unpacked

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
_TENSOR = "string name = 1; string datatype = 2; repeated int64 shape = 3; "
_NAMED = "string name = 1; string version = 2"
_VALUES = (
    "repeated bool bool_contents = 1; repeated int32 int_contents = 2; repeated int64 int64_contents = 3; "
    "repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5; "
    "repeated float fp32_contents = 6; repeated double fp64_contents = 7; repeated bytes bytes_contents = 8"
)
# In the syntax of .proto files; a message that is in another one is behind it.
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": f"{_NAMED}; repeated string extensions = 3",
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": "string name = 1; repeated string versions = 2; string platform = 3; "
    "repeated ModelMetadataResponse.TensorMetadata inputs = 4; "
    "repeated ModelMetadataResponse.TensorMetadata outputs = 5",
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "InferTensorContents": _VALUES,
    "ModelInferRequest": "string model_name = 1; string model_version = 2; string id = 3; "
    "repeated ModelInferRequest.InferInputTensor inputs = 5; "
    "repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6; "
    "repeated bytes raw_input_contents = 7",
    "ModelInferRequest.InferInputTensor": f"{_TENSOR}InferTensorContents contents = 5",
    "ModelInferRequest.InferRequestedOutputTensor": "string name = 1",
    "ModelInferResponse": "string model_name = 1; string model_version = 2; string id = 3; "
    "repeated ModelInferResponse.InferOutputTensor outputs = 5; repeated bytes raw_output_contents = 6",
    "ModelInferResponse.InferOutputTensor": f"{_TENSOR}InferTensorContents contents = 5",
}
# The field of `InferTensorContents` that holds the values of a datatype.
_FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}


def _declared() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="open_inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for name, fields in _MESSAGES.items():
        outer, _, inner = name.rpartition(".")
        message = made[outer].nested_type.add(name=inner) if outer else file.message_type.add(name=inner)
        made[name] = message
        for field in filter(None, fields.split("; ")):
            _declare(message, field)
    # protobuf 3 and 6 both have this, and make a pool for it.
    return message_factory.GetMessages([file])


def _declare(message: descriptor_pb2.DescriptorProto, field: str) -> None:
    """Add a field in the syntax of .proto files to a message."""
    kinds = descriptor_pb2.FieldDescriptorProto
    *label, kind, name, _, number = field.split()
    one = message.field.add(name=name, number=int(number.rstrip("; ")))
    one.label = kinds.LABEL_REPEATED if label else kinds.LABEL_OPTIONAL
    if kind in _MESSAGES:
        one.type, one.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        one.type = kinds.Type.Value(f"TYPE_{kind.upper()}")


_CLASSES = _declared()


def message(name: str) -> Any:
    """The class of a message of the package."""
    return _CLASSES[f"{PACKAGE}.{name}"]


def specs_of(request: Any) -> dict[str, tf.TensorSpec]:
    """Dtypes and shapes of a ModelInferRequest's inputs, by name, whose values are not touched.

    Raises:
      RequestError: INVALID_ARGUMENT, with what must be.
    """
    specs: dict[str, tf.TensorSpec] = {}
    for given in request.inputs:
        if given.name in specs:
            raise invalid(f"inputs must have different names, got {given.name} twice")
        # A message may hold millions of sizes.
        shape, kind = checked(given.name, list(given.shape[: MOST_SIZES + 1]), given.datatype)
        specs[given.name] = tf.TensorSpec(shape, tf.as_dtype(DTYPES[kind]))
    return specs


def inputs_of(request: Any) -> dict[str, np.ndarray]:
    """The arrays of a ModelInferRequest, by name; `specs_of` has checked it.

    Raises:
      RequestError: INVALID_ARGUMENT, with what must be.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise invalid(
            f"raw_input_contents must be one for each of {len(request.inputs)} inputs, got {len(raw)}"
        )
    arrays: dict[str, np.ndarray] = {}
    for place, given in enumerate(request.inputs):
        name, shape = given.name, list(given.shape)
        if raw:
            values = unpacked(name, memoryview(raw[place]), DTYPES[given.datatype])
        else:
            values = _values(name, given, math.prod(shape))
        arrays[name] = filled(name, values, shape)
    return arrays


def _values(name: str, given: Any, count: int) -> np.ndarray:
    field = _FIELDS[given.datatype]
    if others := [one.name for one, _ in given.contents.ListFields() if one.name != field]:
        raise invalid(f"contents of {name} must be {field} for {given.datatype}, got {others[0]}")
    values = getattr(given.contents, field)
    # Before they are made Python objects.
    if len(values) != count:
        raise invalid(f"data of {name} must have {count} values for its shape, got {len(values)}")
    # There is no field for values of 8 bits alone; NumPy 1 would wrap them around.
    if given.datatype == "UINT8" and max(values, default=0) > 255:
        raise invalid(f"contents of {name} must be in [0, 255], got {max(values)}")
    array = np.empty(count, DTYPES[given.datatype])
    array[:] = list(values)
    return array


def answer(request: Any, outputs: dict[str, np.ndarray], version: int) -> Any:
    """The ModelInferResponse of outputs: raw if the request was, else typed contents."""
    response = message("ModelInferResponse")(
        model_name=request.model_name, model_version=str(version), id=request.id
    )
    for name in dict.fromkeys(one.name for one in request.outputs) or outputs:
        array = outputs[name]
        kind = datatype(array.dtype)
        one = response.outputs.add(name=name, datatype=kind, shape=array.shape)
        if request.raw_input_contents:
            response.raw_output_contents.append(packed(array))
        else:
            getattr(one.contents, _FIELDS[kind]).extend(array.reshape(-1).tolist())
    return response
