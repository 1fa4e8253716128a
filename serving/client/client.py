"""The interface of a client, over gRPC, over REST or from a folder."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.export.metadata import Metadata
from serving.wire.errors import ClientError

# How often a busy server, or one that restarts, is asked; seconds before the second time, which then double.
ATTEMPTS, BACKOFF = 4, 0.2

# An array of any dtype; strings are object arrays of bytes.
Array = NDArray[Any]
# Of a model: its number, a label, or None for the newest.
Version = int | str | None


class Client(abc.ABC):
    """Queries models by name; a context manager that closes its connection."""

    @abc.abstractmethod
    def predict(self, model: str, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one signature of a model, of the version that was asked for, or of the newest.

        Args:
          model: "vit_vqgan" or "vim".
          signature: see `serving.export.tokenizer` and `serving.export.generator`.
          inputs: arrays by name, of the signature's dtypes; object arrays of bytes for strings.

        Returns:
          Arrays by name, strings as object arrays of bytes.

        Raises:
          ClientError: no answer, or an error; one line.
        """

    def metadata(self, model: str) -> Metadata:
        """The model's metadata; raises ClientError as `predict` does."""
        try:
            answer = self.predict(model, "metadata", {"rows": np.zeros(1, np.int32)})
        except ClientError as error:
            if "rows" not in str(error):
                raise
            # Of an older model, or another's: its signature has no inputs.
            answer = self.predict(model, "metadata", {})
        try:
            return Metadata.from_json(answer["metadata"].item())
        except (KeyError, TypeError, ValueError) as error:
            raise ClientError(f"{model} must have tfx-vim's metadata; is it a tfx-vim model?") from error

    def close(self) -> None:  # noqa: B027 - a folder has nothing to close
        """Close the connection, if there is one."""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
