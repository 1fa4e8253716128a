"""One way to ask a model, whether it is behind gRPC, behind REST or in a folder."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from types import TracebackType

import numpy as np

from serving.errors import ClientError
from serving.metadata import Metadata

# Above the servers' own limit, so that a slow answer gets their explanation and not ours.
TIMEOUT_SECONDS = 150.0


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


def connect(endpoint: str, *, timeout: float = TIMEOUT_SECONDS) -> Client:
    """A client of a server, the embedded one or tensorflow/serving.

    Args:
      endpoint: grpc://host:port or http://host:port (or https).
      timeout: seconds a request may take.

    Raises:
      ClientError: for any other form of endpoint; whether a server is there, the first request tells.
    """
    scheme, _, address = endpoint.partition("://")
    # Each client is imported by the one who needs it: gRPC's messages bring TensorFlow along.
    if scheme == "grpc" and address:
        from serving.grpc_client import GrpcClient

        return GrpcClient(address, timeout)
    if scheme in ("http", "https") and address:
        from serving.rest_client import RestClient

        return RestClient(endpoint, timeout)
    raise ClientError(
        f"endpoint {endpoint!r} is not known, allowed are grpc://host:port and http://host:port"
    )


def open_folder(base: str) -> Client:
    """A client that loads the newest version of each model below `base` itself, when first asked.

    Raises:
      ClientError: where the folder holds no model.
    """
    from serving.folder_client import FolderClient

    return FolderClient(base)
