"""Errors of serving, each one line for the user, and the gRPC status that goes with it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import grpc

# Bytes of an error that is answered. gRPC writes one of UTF-8 as up to three, and a client refuses a header
# of more than 8 KiB as RESOURCE_EXHAUSTED, which means that the server is busy.
LONGEST = 2000

# TensorFlow puts the failed node and its source line in front of the reason, Keras the layer.
_PREAMBLE = re.compile(
    r"Graph execution error:|Detected at node|<stack traces unavailable>|File \""
    r"|Exception encountered when calling|\d+ root error\(s\) found"
)
# What is asserted, and a number that belongs to it (`serving.export.signatures.row_check`).
_ASSERTION = re.compile(
    r"assertion failed: \[(?P<reason>.*?)\](?: \[(?P<number>\d+)\])?(?: \[Condition |\s|$)"
)
# One of several errors of a step: `(0) DATA_LOSS:  truncated record`.
_ROOT = re.compile(r"^\(\d+\) [A-Z_]+: +")
_ESCAPED = re.compile(r"\\(['\"\\])")
_NODE = re.compile(r"\{\{function_node.*?\}\}\s*|\s*\[\[\{\{node.*|\s*\[Op:.*|\s*\[while running '.*")
# Beam puts the type of a worker's error in front of it.
_TYPE = re.compile(r"^(?:\w+\.)+\w+(?:Error|Exception|Images|Record|File): ")


class ServingError(RuntimeError):
    """A server that cannot start or continue; the message is one line for the user."""


class ClientError(ServingError):
    """A query without the expected answer; the message is one line for the user."""


class RefusedError(ClientError):
    """A query that the model or the server calls wrong: asked again, it gets the same answer."""


class RequestError(Exception):
    """A request that is answered with an error.

    Attributes:
      code: the gRPC status; `serving.server.rest` maps it to an HTTP status.
      message: one line that says what must be and what was given.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        self.code = code
        self.message = printable(message)
        super().__init__(self.message)

    def __reduce__(self) -> tuple[type[RequestError], tuple[grpc.StatusCode, str]]:
        # Large messages are read in another process, whose errors come back.
        return RequestError, (self.code, self.message)


def printable(message: str) -> str:
    """A message in one line of at most `LONGEST` bytes and an ellipsis.

    What was given may be megabytes: nobody reads them, and a log would be filled with them. And it may have
    line breaks, which a log would take for entries of its own.
    """
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in message[: LONGEST + 1])
    whole = shown.encode()
    return shown if len(whole) <= LONGEST else f"{whole[:LONGEST].decode(errors='ignore')}..."


def invalid(message: str) -> RequestError:
    """A faulty request: INVALID_ARGUMENT, HTTP 400."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> RequestError:
    """No such model, version or label: NOT_FOUND, HTTP 404."""
    return RequestError(grpc.StatusCode.NOT_FOUND, message)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; TensorFlow has the same type of error for full disks and open files."""
    text = str(error)
    return isinstance(error, MemoryError) or (
        type(error).__name__ == "ResourceExhaustedError" and ("OOM" in text or "allocat" in text)
    )


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A question behind an error about an unknown name; "" if none is near."""
    # Ablations are known by the last part of their names too.
    names = {form: name for name in known for form in (name.rpartition("/")[2], name)}
    near = difflib.get_close_matches(given, list(names), n=1)
    return f"; did you mean {names[near[0]]}?" if near else ""


def one_line(error: BaseException) -> str:
    """The reason of any exception in one line, without what TensorFlow, Keras and Beam add to it."""
    text = str(error)
    if assertion := _ASSERTION.search(text):
        # TensorFlow escapes quotes in the text of a tensor.
        reason = _ESCAPED.sub(r"\1", assertion["reason"]).rstrip(" .")
        return f"{reason} {assertion['number']}" if assertion["number"] else reason
    # Keras lists the arguments of the failed layer below the reason.
    text = text.partition("Arguments received by")[0]
    lines = [line for line in (_NODE.sub("", line).strip() for line in text.splitlines()) if line]
    if lines and lines[0] == "in user code:":  # AutoGraph puts its own traceback above the reason
        return lines[-1]
    reason = next((line for line in lines if not _PREAMBLE.match(line)), type(error).__name__)
    return _TYPE.sub("", _ROOT.sub("", reason))
