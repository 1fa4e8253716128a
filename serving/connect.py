"""From an endpoint or a folder to the client that asks it."""

from __future__ import annotations

from serving.client import Client
from serving.errors import ClientError

# Above the servers' own limit, so that a slow answer gets their explanation and not ours.
TIMEOUT_SECONDS = 150.0


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
