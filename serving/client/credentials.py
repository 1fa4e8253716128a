"""What a client shows to a server, and what it trusts."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field

import grpc

from serving.wire.errors import ClientError, one_line


@dataclass(frozen=True)
class Credentials:
    """Credentials for servers that want them.

    Attributes:
      token: a bearer token; none if empty.
      root_certificates: a PEM file that the server's certificate may come from; the system's if empty.
      certificate: a PEM file of the client's own, for mTLS.
      key: a PEM file of its private key.
    """

    token: str = field(default="", repr=False)
    root_certificates: str = ""
    certificate: str = ""
    key: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def grpc(self) -> grpc.ChannelCredentials:
        """For gRPC over TLS.

        Raises:
          ClientError: a file cannot be read.
        """
        files = (self.root_certificates, self.key, self.certificate)
        return grpc.ssl_channel_credentials(*(_content(path) if path else None for path in files))

    @property
    def http(self) -> ssl.SSLContext:
        """For REST over TLS.

        Raises:
          ClientError: a file cannot be read, or holds no PEM.
        """
        try:
            context = ssl.create_default_context(cafile=self.root_certificates or None)
            if self.certificate:
                context.load_cert_chain(self.certificate, self.key or None)
        except OSError as error:
            raise ClientError(f"certificates must be PEM files, got {one_line(error)}") from error
        return context


NONE = Credentials()


def read_token(path: str) -> str:
    """Read a bearer token from a file.

    Raises:
      ClientError: it cannot be read.
    """
    return _content(path).decode("ascii", errors="replace").strip()


def _content(path: str) -> bytes:
    try:
        with open(os.path.expanduser(path), "rb") as file:
            return file.read()
    except OSError as error:
        raise ClientError(f"{path} must be a file that can be read, got {error.strerror}") from error
