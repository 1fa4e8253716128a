"""Ports to listen on, checked before anything is loaded."""

from __future__ import annotations

import socket

from serving.wire.errors import ServingError


def check_free(host: str, port: int) -> None:
    """Check that a port can be listened on: gRPC logs several lines if it is in use.

    Raises:
      ServingError: it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        raise cannot_listen(host, port, (error.strerror or str(error)).lower()) from error


def cannot_listen(host: str, port: int, reason: str) -> ServingError:
    """The error of a port that cannot be listened on."""
    return ServingError(f"cannot listen on {bracketed(host)}:{port}: {reason}")


def bracketed(host: str) -> str:
    """A host as in an address: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host
