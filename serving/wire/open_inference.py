"""The JSON of the Open Inference Protocol (version 2), with its extension for binary tensors.

A tensor has a name, a shape, a datatype, and its values: in JSON (`data`), or as bytes behind the JSON
(`parameters.binary_data_size`), whose length the header `Inference-Header-Content-Length` states. Elements of
BYTES are preceded by their length, 4 bytes, little-endian. In JSON they are text, or base64 where
`parameters.content_type` is `base64`, as MLServer has it.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.wire import json_tensors
from serving.wire.errors import invalid

BYTES = "BYTES"
BASE64 = "base64"
# By the protocol's datatype, numpy's; object arrays hold bytes.
DTYPES: Mapping[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
    BYTES: np.object_,
}
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_LENGTH = struct.Struct("<I")
# NumPy's limit.
MOST_SIZES = 32


@dataclass(frozen=True)
class InferRequest:
    """The body of an infer request.

    Attributes:
      id: that the answer repeats; "" for none.
      inputs: arrays by name.
      outputs: the outputs that are wanted, by name, and whether each is to be binary; all if empty.
      binary: whether outputs that are not named are to be binary.
    """

    id: str
    inputs: dict[str, np.ndarray]
    outputs: Mapping[str, bool]
    binary: bool

    @classmethod
    def parse(cls, body: bytes, json_bytes: int | None = None) -> InferRequest:
        """Parse a body.

        Args:
          body: JSON, and behind it the bytes of binary tensors.
          json_bytes: the length of the JSON; all of the body if None.

        Raises:
          RequestError: INVALID_ARGUMENT, with what must be.
        """
        length = len(body) if json_bytes is None else json_bytes
        if not 0 <= length <= len(body):
            raise invalid(f"Inference-Header-Content-Length must be at most {len(body)}, got {length}")
        try:
            fields = json.loads(body[:length])
        except (ValueError, RecursionError) as error:
            raise invalid("body must be JSON") from error
        if not isinstance(fields, dict) or not _is_list_of_objects(fields.get("inputs")):
            raise invalid("body must be an object with a list of inputs")
        if not _is_list_of_objects(fields.get("outputs", [])):
            raise invalid("outputs must be a list of objects")
        rest = _Rest(memoryview(body)[length:])
        inputs: dict[str, np.ndarray] = {}
        for given in fields["inputs"]:
            name = _text(given, "name", "input")
            if name in inputs:
                raise invalid(f"inputs must have different names, got {name} twice")
            inputs[name] = _tensor(name, given, rest)
        if rest.left:
            raise invalid(f"bytes behind the JSON must belong to inputs, got {rest.left} more")
        binary = bool(_parameters(fields).get("binary_data_output", False))
        return cls(
            _text(fields, "id", "body") if "id" in fields else "",
            inputs,
            {
                _text(one, "name", "output"): bool(_parameters(one).get("binary_data", binary))
                for one in fields.get("outputs", [])
            },
            binary,
        )

    def is_binary(self, name: str) -> bool:
        """Whether an output is to be bytes behind the JSON."""
        return self.outputs.get(name, self.binary)

    def write(self, outputs: Mapping[str, np.ndarray], head: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """Return the JSON of an answer, which begins with the fields of `head`, and the bytes behind it."""
        described, binary = self.answer(outputs)
        own = {"id": self.id} if self.id else {}
        return json.dumps({**head, **own, "outputs": described}).encode(), binary

    def answer(self, outputs: Mapping[str, np.ndarray]) -> tuple[list[dict[str, Any]], bytes]:
        """Return the outputs that are wanted, for JSON, and the bytes behind it."""
        described, parts = [], []
        for name in self.outputs or outputs:
            array = outputs[name]
            one: dict[str, Any] = {
                "name": name,
                "datatype": datatype(array.dtype),
                "shape": list(array.shape),
            }
            if self.is_binary(name):
                parts.append(packed(array))
                one["parameters"] = {"binary_data_size": len(parts[-1])}
            else:
                one.update(_listed(name, array))
            described.append(one)
        return described, b"".join(parts)


class _Rest:
    """The bytes behind the JSON, taken from the front."""

    def __init__(self, content: memoryview):
        self._content = content

    @property
    def left(self) -> int:
        return len(self._content)

    def take(self, size: int) -> memoryview:
        if not 0 <= size <= len(self._content):
            raise invalid(f"binary_data_size must be at most {len(self._content)}, got {size}")
        taken, self._content = self._content[:size], self._content[size:]
        return taken


def datatype(dtype: Any) -> str:
    """The protocol's name of a dtype of numpy."""
    return _NAMES[np.dtype(dtype)]


def _tensor(name: str, given: Mapping[str, Any], rest: _Rest) -> np.ndarray:
    shape, kind = checked(name, given.get("shape"), given.get("datatype"))
    parameters = _parameters(given)
    size = parameters.get("binary_data_size")
    if size is not None:
        if not _is_size(size):
            raise invalid(f"binary_data_size of {name} must be a number of bytes, got {size!r}")
        values = unpacked(name, rest.take(size), DTYPES[kind])
    elif "data" in given:
        values = _from_json(name, given["data"], kind, parameters)
    else:
        raise invalid(f"input {name} must have data, or binary_data_size")
    return filled(name, values, shape)


def checked(name: str, shape: Any, kind: Any) -> tuple[list[int], str]:
    """Shape and datatype of a tensor, checked before its values are read.

    Raises:
      RequestError: INVALID_ARGUMENT.
    """
    if not isinstance(shape, list):
        raise invalid(f"shape of {name} must be a list of sizes")
    # Before they are multiplied: the product of a million sizes takes minutes.
    if len(shape) > MOST_SIZES:
        raise invalid(f"shape of {name} must be one of an array, got {len(shape)} sizes")
    if not all(_is_size(size) for size in shape):
        raise invalid(f"shape of {name} must be a list of sizes")
    if not isinstance(kind, str) or kind not in DTYPES:
        raise invalid(f"datatype of {name} must be one of {', '.join(DTYPES)}, got {kind!r}")
    return shape, kind


def filled(name: str, values: np.ndarray, shape: list[int]) -> np.ndarray:
    """Values [n] in a checked shape.

    Raises:
      RequestError: INVALID_ARGUMENT: they do not fill it.
    """
    if math.prod(shape) != values.size:
        raise invalid(f"data of {name} must have {math.prod(shape)} values for its shape, got {values.size}")
    try:
        return values.reshape(shape)
    # Of nothing, and larger than memory.
    except ValueError as error:
        raise invalid(f"shape of {name} must be one of an array, got {len(shape)} sizes") from error


def _from_json(name: str, data: Any, kind: str, parameters: Mapping[str, Any]) -> np.ndarray:
    # Flat, or nested as the shape is.
    if kind == BYTES and parameters.get("content_type") == BASE64:
        texts = json_tensors.decode(name, data, object).reshape(-1)
        try:
            decoded = [base64.b64decode(text, validate=True) for text in texts]
        except ValueError as error:
            raise invalid(f"data of {name} must be base64, as its content_type says") from error
        return _objects(decoded)
    return json_tensors.decode(name, data, DTYPES[kind]).reshape(-1)


def unpacked(name: str, content: memoryview, dtype: Any) -> np.ndarray:
    """The values in the bytes of a tensor, [n].

    Raises:
      RequestError: INVALID_ARGUMENT: they are not whole.
    """
    if dtype is np.object_:
        return _objects(list(_elements(name, content)))
    item = np.dtype(dtype).itemsize
    if len(content) % item:
        raise invalid(f"binary_data_size of {name} must be a multiple of {item}, got {len(content)}")
    return np.frombuffer(content, dtype)


def _elements(name: str, content: memoryview) -> Iterator[bytes]:
    at = 0
    while at < len(content):
        if at + _LENGTH.size > len(content):
            raise invalid(f"each element of {name} must have its length in front of it")
        (length,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        if at + length > len(content):
            raise invalid(f"an element of {name} must be {length} bytes, got {len(content) - at}")
        yield bytes(content[at : at + length])
        at += length


def packed(array: np.ndarray) -> bytes:
    """The bytes of a tensor."""
    if array.dtype == np.object_:
        return b"".join(_LENGTH.pack(len(one)) + one for one in array.flat)
    return np.ascontiguousarray(array).tobytes()


def _listed(name: str, array: np.ndarray) -> dict[str, Any]:
    """The values of an output in JSON, flat."""
    flat = array.reshape(-1)
    if array.dtype == np.object_ and name.endswith(json_tensors.BYTES_SUFFIX):
        texts = [base64.b64encode(one).decode("ascii") for one in flat]
        return {"data": texts, "parameters": {"content_type": BASE64}}
    return {"data": json_tensors.encode(name, flat)}


def _objects(values: list[bytes]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _parameters(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = fields.get("parameters", {})
    if not isinstance(parameters, dict):
        raise invalid("parameters must be an object")
    return parameters


def _text(fields: Mapping[str, Any], key: str, where: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise invalid(f"{key} of {where} must be a string, got {value!r}")
    return value
