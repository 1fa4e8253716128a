"""One way to ask a model, whether it is behind gRPC, behind REST or in a folder."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from types import TracebackType

import numpy as np

from serving.errors import ClientError
from serving.metadata import Metadata


class Client(abc.ABC):
    """Models by name; a context manager that gives its connection back."""

    @abc.abstractmethod
    def predict(self, model: str, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs one signature of the newest version of a model.

        Args:
          model: "vit_vqgan" or "vim".
          signature: as in `serving.export`.
          inputs: arrays by name, of the signature's dtypes; object arrays of bytes for strings.

        Returns:
          Arrays by name, strings as object arrays of bytes.

        Raises:
          ClientError: no answer, or an error for an answer; one line.
        """

    def metadata(self, model: str) -> Metadata:
        """What the model says of itself; raises ClientError as `predict` does."""
        answer = self.predict(model, "metadata", {})
        try:
            return Metadata.from_json(answer["metadata"].item())
        except (KeyError, TypeError, ValueError) as error:
            raise ClientError(f"{model} gives metadata of another kind: is it one of our models?") from error

    def close(self) -> None:  # noqa: B027 - a folder has nothing to end
        """Ends the connection, where there is one."""

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
