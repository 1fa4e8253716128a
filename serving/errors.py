"""What can go wrong in serving, each as one line for the person in front of it."""

from __future__ import annotations

import re

import grpc

# In front of the reason, TensorFlow tells which node of the graph failed and where it was written.
_PREAMBLE = re.compile(r"Graph execution error:|Detected at node|<stack traces unavailable>|File \"")
_ASSERTION = re.compile(r"assertion failed: \[(?P<reason>.*?)\] \[Condition ")
_NODE = re.compile(r"\s*\[\[\{\{node.*|\s*\[Op:.*")


class ServingError(RuntimeError):
    """The server cannot start or go on; the message is one line for the user."""


class ClientError(ServingError):
    """A model did not answer as asked; the message is one line for the user."""


class RequestError(Exception):
    """A request that gets an error for an answer.

    Attributes:
      code: the gRPC status; the REST service maps it to an HTTP status.
      message: one line naming what was given and what is allowed.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> RequestError:
    """The request itself is wrong (INVALID_ARGUMENT, 400)."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> RequestError:
    """No such model, version or label (NOT_FOUND, 404)."""
    return RequestError(grpc.StatusCode.NOT_FOUND, message)


def first_line(error: BaseException) -> str:
    """The reason of any exception in one line; of a TensorFlow graph error, without the graph."""
    text = str(error)
    if assertion := _ASSERTION.search(text):
        return assertion["reason"].rstrip(" .")
    for line in text.splitlines():
        line = _NODE.sub("", line).strip()
        if line and not _PREAMBLE.match(line):
            return line
    return type(error).__name__
