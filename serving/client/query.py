"""What is asked of a signature, for any number of rows, and how its answers are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from serving.client.client import Array, Client
from serving.export.metadata import ERROR
from serving.wire.errors import ClientError, RefusedError

# A batch of photographs must stay far below the servers' 64 MiB, base64 included.
BATCH_BYTES = 16 * 2**20

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Query(Generic[Answer]):
    """Rows for one signature of a model, sent in batches; no answer depends on their size.

    Attributes:
      model: its name.
      signature: of the model.
      inputs: arrays by name, with one row or more each.
      outputs: the names that `read` needs.
      read: makes the answer from the outputs of some rows; raises ClientError if they are something else.
      batch_size: rows a request, at most.
    """

    model: str
    signature: str
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    read: Callable[[Mapping[str, Array]], Answer]
    batch_size: int

    def batches(self) -> Iterator[dict[str, Array]]:
        """Yield the inputs of each request: beyond the first row, at most BATCH_BYTES of strings."""
        for rows in self._slices():
            yield {name: array[rows] for name, array in self.inputs.items()}

    def checked(self, answer: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs of a request that `read` needs.

        Raises:
          ClientError: one of them is missing.
          RefusedError: a row has failed.
        """
        for row, error in enumerate(answer.get(ERROR, ())):
            if error:
                raise RefusedError(f"row {row} of {len(answer[ERROR])} was refused: {error.decode()}")
        if missing := set(self.outputs) - set(answer):
            raise ClientError(
                f"answer must have the outputs {', '.join(sorted(missing))}; is this a tfx-vim model?"
            )
        return {name: answer[name] for name in self.outputs}

    def _slices(self) -> Iterator[slice]:
        strings = [array for array in self.inputs.values() if array.dtype == object]
        rows = len(next(iter(self.inputs.values())))
        start = size = 0
        for row in range(rows):
            more = sum(len(array[row]) for array in strings)
            if row > start and (row - start == self.batch_size or size + more > BATCH_BYTES):
                yield slice(start, row)
                start, size = row, 0
            size += more
        yield slice(start, rows)


def run(client: Client, query: Query[Answer]) -> Answer:
    """Ask for all rows, one request after the other; raises ClientError as `Client.predict` does."""
    answers = [query.checked(client.predict(query.model, query.signature, one)) for one in query.batches()]
    return query.read(joined(answers))


def stream(client: Client, query: Query[Answer]) -> Iterator[Answer]:
    """Yield the answer of each batch when it is there, so that large sets need no memory."""
    for one in query.batches():
        yield query.read(query.checked(client.predict(query.model, query.signature, one)))


def joined(answers: list[dict[str, Array]]) -> dict[str, Array]:
    """The outputs of all batches as one."""
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
