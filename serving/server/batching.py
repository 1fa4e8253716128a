"""Batching: rows of different requests share a call of the model.

The rules and names are those of TensorFlow Serving's batch scheduler (`--batching_parameters_file`). Where it
would refuse a request of more rows than a batch, such a request here is a batch of its own. If a call fails
for a fault of one request, each is asked alone, so that only the faulty one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from serving.server import textproto
from serving.server.servable import Servable, Signature
from serving.wire.errors import ServingError, invalid

Arrays = dict[str, np.ndarray]

_FIELDS = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
# Of session_bundle_config.proto.
_FILE = {
    **{name: {"value": int} for name in _FIELDS},
    "thread_pool_name": {"value": str},
    "allowed_batch_sizes": [int],
    "pad_variable_length_inputs": bool,
}


@dataclass(frozen=True)
class Batching:
    """How rows are put together.

    Attributes:
      enabled: whether they are at all; each request is a call of its own otherwise.
      max_batch_size: rows of a call at most.
      batch_timeout_micros: how long a batch that is not full waits for more rows once a thread is free.
      max_enqueued_batches: how many rows may wait, counted in full batches.
      num_batch_threads: calls at the same time, each of which uses all cores.
      allowed_batch_sizes: rows that a call may have, filled up with copies of the last; any by default.
    """

    enabled: bool = True
    max_batch_size: int = 64
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 100
    num_batch_threads: int = 1
    allowed_batch_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in _FIELDS:
            least = 0 if name == "batch_timeout_micros" else 1
            if getattr(self, name) < least:
                raise ServingError(f"{name} must be at least {least}, got {getattr(self, name)}")
        sizes = self.allowed_batch_sizes
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != self.max_batch_size):
            raise ServingError(
                "allowed_batch_sizes must rise and end with max_batch_size "
                f"{self.max_batch_size}, got {', '.join(map(str, sizes))}"
            )

    @property
    def max_waiting_rows(self) -> int:
        """Rows that may wait."""
        return self.max_enqueued_batches * self.max_batch_size

    def padded(self, rows: int) -> int:
        """The rows of a call for so many."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)


def read_parameters(path: str) -> Batching:
    """Read a `--batching_parameters_file`: a BatchingParameters as text.

    Raises:
      ServingError: the file cannot be read, or holds something else.
    """
    read = textproto.read(path, "BatchingParameters", _FILE)
    given = {name: read[name].get("value", 0) for name in _FIELDS if name in read}
    sizes = read.get("allowed_batch_sizes", ())
    if sizes:
        given.setdefault("max_batch_size", sizes[-1])
    return Batching(**given, allowed_batch_sizes=sizes)


class Call(NamedTuple):
    """A request, checked: what to ask of which signature.

    Attributes:
      servable: the version that answers.
      signature: of it.
      inputs: arrays by name.
      outputs: the names of those wanted.
    """

    servable: Servable
    signature: Signature
    inputs: Arrays
    outputs: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many rows it has; 1 for a signature without rows."""
        sizes = [len(array) for array in self.inputs.values()] if self.signature.has_rows else []
        return sizes[0] if sizes else 1

    @property
    def bytes(self) -> int:
        """Memory of the inputs."""
        return bytes_of(self.inputs)

    @property
    def key(self) -> tuple[object, ...]:
        """What calls that share a batch have in common."""
        shapes = tuple((name, array.shape[1:]) for name, array in sorted(self.inputs.items()))
        return id(self.servable), self.signature.name, shapes


def joined(calls: Sequence[Call], batching: Batching) -> Call:
    """One call for the rows of several of the same `key`."""
    first = calls[0]
    if not first.signature.has_rows:
        return first
    rows = sum(call.rows for call in calls)
    missing = batching.padded(rows) - rows
    inputs: Arrays = {}
    for name in first.inputs:
        parts = [call.inputs[name] for call in calls]
        if missing and rows:
            parts.append(np.repeat(parts[-1][-1:], missing, axis=0))
        inputs[name] = np.concatenate(parts) if len(parts) > 1 else parts[0]
    wanted = [name for name in first.signature.outputs if any(name in call.outputs for call in calls)]
    return Call(first.servable, first.signature, inputs, tuple(wanted))


def split(outputs: Mapping[str, np.ndarray], calls: Sequence[Call], sent: int) -> list[Arrays]:
    """The answers of calls whose rows were asked together.

    Args:
      outputs: of the joined call.
      calls: in the order in which they were joined.
      sent: rows of the joined call, filled-up ones included.

    Raises:
      RequestError: several calls share an output that does not have a row for each of the inputs.
    """
    (first, *others) = calls
    other_sizes = [name for name, array in outputs.items() if array.ndim == 0 or len(array) != sent]
    if not others and (sent == first.rows or not first.signature.has_rows):
        return [dict(outputs)]
    if other_sizes:
        raise invalid(f"output {other_sizes[0]} must have a row for each of the inputs")
    answers, start = [], 0
    for call in calls:
        end = start + call.rows
        # Copies of small parts of a large batch: a view would keep all of it.
        answers.append({name: outputs[name][start:end].copy() for name in call.outputs})
        start = end
    return answers


def bytes_of(arrays: Mapping[str, np.ndarray]) -> int:
    """Memory of arrays, strings included."""
    strings = [array for array in arrays.values() if array.dtype.kind == "O"]
    return sum(array.nbytes for array in arrays.values()) + sum(
        len(one) for all in strings for one in all.flat
    )
