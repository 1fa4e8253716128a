"""Conversion between arrays and the JSON of TF Serving's REST interface.

Row form: {"instances": [one, one, ...]} -> {"predictions": [one, one, ...]}. An instance is the value
of the only tensor, or an object with one value per tensor.
Column form: {"inputs": all} -> {"outputs": all}, all rows of the only tensor, or an object of them.
Strings are {"b64": ...}; plain JSON strings are read as UTF-8, and written for tensors whose name does
not end in `_bytes`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.wire.errors import invalid

BYTES_SUFFIX = "_bytes"

# numpy's kind of arrays of Python objects, which hold strings here.
_OBJECT = "O"

# Types of JSON values by numpy's kind of dtype.
_KINDS = {"f": "fractions", "i": "integers", "u": "integers", "b": "booleans", "U": "strings"}


@dataclass(frozen=True)
class PredictBody:
    """The body of a :predict request."""

    signature_name: str
    rows: bool
    values: Any

    @classmethod
    def from_json(cls, body: bytes) -> PredictBody:
        """Parse a body; raises RequestError unless it is a JSON object with `instances` or `inputs`."""
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise invalid("body must be JSON") from error
        # Other keys are ignored, as TF Serving does.
        if not isinstance(fields, dict):
            raise invalid('body must be an object with "instances" or "inputs", optionally "signature_name"')
        if ("instances" in fields) == ("inputs" in fields):
            raise invalid('body must have exactly one of "instances" and "inputs"')
        name = fields.get("signature_name", "")
        if not isinstance(name, str):
            raise invalid(f"signature_name must be a string, got {name!r}")
        if "inputs" in fields:
            return cls(name, False, fields["inputs"])
        if not isinstance(fields["instances"], list) or not fields["instances"]:
            raise invalid('"instances" must be a list of at least one instance')
        return cls(name, True, fields["instances"])

    def arrays(self, dtypes: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the inputs by name; `dtypes` are numpy dtypes by name, object for strings."""
        columns = _columns(self.values, dtypes) if self.rows else _named(self.values, dtypes, '"inputs"')
        return {name: decode(name, value, dtypes[name]) for name, value in columns.items()}

    def answer(self, outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return the response, in the same form as the request."""
        values = {name: encode(name, array) for name, array in outputs.items()}
        only = next(iter(values)) if len(values) == 1 else None
        if not self.rows:
            return {"outputs": values[only] if only else values}
        for name, array in outputs.items():
            if array.shape[:1] != (len(self.values),):
                raise invalid(f'output {name} must have one row per instance: ask with "inputs" instead')
        if only:
            return {"predictions": values[only]}
        rows = zip(*values.values(), strict=True)
        return {"predictions": [dict(zip(values, row, strict=True)) for row in rows]}


def read(body: bytes, dtypes: Mapping[str, Mapping[str, Any]]) -> tuple[PredictBody, dict[str, np.ndarray]]:
    """Parse a body and its arrays.

    Args:
      body: of a :predict request.
      dtypes: of the inputs of each signature, "" for the default one.

    Returns:
      The body, of which only the number of rows is left, and the inputs; none if the signature is unknown.
    """
    asked = PredictBody.from_json(body)
    inputs = asked.arrays(dtypes[asked.signature_name]) if asked.signature_name in dtypes else {}
    left = [None] * len(asked.values) if asked.rows else None
    return PredictBody(asked.signature_name, asked.rows, left), inputs


def write(asked: PredictBody, outputs: Mapping[str, np.ndarray]) -> str:
    """The text of an answer."""
    return json.dumps(asked.answer(outputs))


def encode(name: str, array: np.ndarray) -> Any:
    """Convert an array to nested lists, bytes to base64 objects if `name` ends in `_bytes`, else to text."""
    if array.dtype.kind != _OBJECT:
        return array.tolist()
    if name.endswith(BYTES_SUFFIX):
        return _mapped(lambda one: {"b64": base64.b64encode(one).decode("ascii")}, array.tolist())
    try:
        return _mapped(lambda one: one.decode(), array.tolist())
    except UnicodeDecodeError as error:
        raise invalid(f"{name} must be UTF-8 text: ask over gRPC") from error


def encode_input(array: np.ndarray) -> Any:
    """Convert an array of a request to nested lists; strings may hold any bytes, and are base64 objects."""
    return encode(BYTES_SUFFIX, array)


def decode(name: str, value: Any, dtype: Any) -> np.ndarray:
    """Convert nested lists to an array of exactly `dtype`.

    Raises RequestError for values that would be truncated, wrapped, or cast from a string or boolean.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == _OBJECT:
        return _strings(name, value)
    try:
        given = np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise invalid(f"{name} must be a tensor, but its lists differ in length") from error
    allowed = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}.get(dtype.kind, "")
    if given.size and given.dtype.kind not in allowed:
        held = _KINDS.get(given.dtype.kind, "values of several kinds")
        raise invalid(f"{name} must be {dtype.name}, got {held}")
    if given.size and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if given.min() < limits.min or given.max() > limits.max:
            raise invalid(
                f"{name} must be from {limits.min} to {limits.max}, got {given.min()} to {given.max()}"
            )
    with np.errstate(over="ignore"):  # to infinity, which signatures refuse
        return given.astype(dtype)


def _strings(name: str, value: Any) -> np.ndarray:
    try:
        strings = np.array(_mapped(_bytes, value), dtype=object)
    except (ValueError, TypeError, RecursionError) as error:
        raise invalid(f'{name} must hold strings only, each {{"b64": ...}} or UTF-8 text') from error
    if not all(isinstance(one, bytes) for one in strings.flat):
        raise invalid(f"{name} must be a tensor, but its lists differ in length")
    return strings


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, dict) or set(value) != {"b64"}:
        raise TypeError(value)
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error as error:
        raise ValueError(value) from error


def _mapped(function: Any, value: Any) -> Any:
    return [_mapped(function, one) for one in value] if isinstance(value, list) else function(value)


def _named(value: Any, names: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return an object of tensors as it is; take anything else as the value of the only tensor."""
    if isinstance(value, dict) and set(value) != {"b64"}:
        if missing := set(names) - set(value):
            raise invalid(f"{where} must be complete, missing: {_listed(missing)}")
        if unknown := set(value) - set(names):
            raise invalid(f"{where} must have {_listed(names)}, got also {_listed(unknown)}")
        return value
    if len(names) != 1:
        raise invalid(f"{where} must be an object with {_listed(names)}")
    return dict.fromkeys(names, value)


def _columns(instances: list, names: Mapping[str, Any]) -> dict[str, list]:
    rows = list(_rows(instances, names))
    return {name: [row[name] for row in rows] for name in names}


def _rows(instances: list, names: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for index, instance in enumerate(instances):
        yield _named(instance, names, f"instance {index}")


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "no input"
