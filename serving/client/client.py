"""The interface of a client, over gRPC, over REST or from a folder."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.export.metadata import Metadata
from serving.export.versions import MAX_VERSION
from serving.wire.errors import ClientError

# How often a busy server, or one that restarts, is asked; seconds before the second time, which then double.
ATTEMPTS, BACKOFF = 4, 0.2

# An array of any dtype; strings are object arrays of bytes.
Array = NDArray[Any]
# Of a model: its number, a label, or None for the newest.
Version = int | str | None

METADATA_INPUTS: Mapping[str, Array] = {"rows": np.zeros(1, np.int32)}


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
            answer = self.predict(model, "metadata", METADATA_INPUTS)
        except ClientError as error:
            if not has_no_rows(error):
                raise
            answer = self.predict(model, "metadata", {})
        return metadata_of(model, answer)

    def close(self) -> None:  # noqa: B027 - a folder has nothing to close
        """Close the connection, if there is one."""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def has_no_rows(error: ClientError) -> bool:
    """Whether `METADATA_INPUTS` were refused: the signature of older models has no inputs."""
    return "rows" in str(error)


def metadata_of(model: str, answer: Mapping[str, Array]) -> Metadata:
    """Read the answer of a model's signature `metadata`.

    Raises:
      ClientError: it is another's.
    """
    try:
        return Metadata.from_json(answer["metadata"].item())
    except (KeyError, TypeError, ValueError) as error:
        raise ClientError(f"{model} must have tfx-vim's metadata; is it a tfx-vim model?") from error


def check_version(version: Version) -> None:
    """Raise a ClientError unless a model can have this version."""
    if isinstance(version, int) and not 0 <= version <= MAX_VERSION:
        raise ClientError(f"version must be from 0 to {MAX_VERSION}, got {version}")
    # What REST has no path for.
    if isinstance(version, str) and (not version.isprintable() or set(version) & set(":/") or not version):
        raise ClientError(f"version must be a number, or a label without : and /, got {version!r}")
