"""Creates the client of an endpoint or a folder."""

from __future__ import annotations

import os
from collections.abc import Callable

from serving.client.client import Client, Version, check_version
from serving.client.credentials import NONE, Credentials
from serving.wire.errors import ClientError

# Above the servers' own limit, so that the server explains a slow answer.
TIMEOUT_SECONDS = 150.0


def connect(
    endpoint: str,
    *,
    version: Version = None,
    timeout: float = TIMEOUT_SECONDS,
    credentials: Credentials = NONE,
) -> Client:
    """Create the client of a server, the embedded one or tensorflow/serving.

    Args:
      endpoint: grpc://host:port or http://host:port, over TLS grpcs:// or https://.
      version: of every model that is asked, a number or a label such as "canary"; None for the newest.
      timeout: seconds a request may take.
      credentials: for servers that want them.

    Raises:
      ClientError: the endpoint or the version has another form. Whether a server answers shows at the first
        request.
    """
    check_version(version)
    # Clients are imported when they are needed: gRPC's messages import TensorFlow.
    if is_grpc(endpoint):
        from serving.client.grpc import GrpcClient

        return GrpcClient(endpoint, timeout, credentials, version)
    from serving.client.rest import RestClient

    return RestClient(endpoint, timeout, credentials, version)


def is_grpc(endpoint: str) -> bool:
    """Whether an endpoint is one of gRPC; else it is one of REST.

    Raises:
      ClientError: it is neither.
    """
    scheme, _, address = endpoint.partition("://")
    if scheme not in ("grpc", "grpcs", "http", "https") or not address:
        raise ClientError(
            f"endpoint must be grpc://host:port, grpcs://, http:// or https://, got {endpoint!r}"
        )
    return scheme.startswith("grpc")


def open_run(run_dir: str) -> Client:
    """Create a client that loads the pushed models of a run, without TensorFlow's lines on standard error.

    Args:
      run_dir: the folder of a run, such as runs/digits.

    Raises:
      ClientError: the run has pushed no model.
    """
    # Read when TensorFlow is imported, at the first query.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return open_folder(os.path.join(run_dir, "serving"))


def open_folder(base: str, say: Callable[[str], None] | None = None) -> Client:
    """Create a client that loads the newest version of each model below `base` at its first query.

    Args:
      base: the folder of the models.
      say: takes a line for each version that does not load, instead of the log.

    Raises:
      ClientError: the folder holds no model.
    """
    from serving.client.folder import FolderClient

    return FolderClient(base, say) if say else FolderClient(base)
