"""The REST client; it needs no TensorFlow."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.client.client import ATTEMPTS, BACKOFF, Array, Client, Version
from serving.client.credentials import Credentials
from serving.wire.errors import ClientError, RefusedError, RequestError
from serving.wire.json_tensors import decode, encode_input

MAX_ANSWER_BYTES = 64 * 2**20
# Statuses of a server that may answer later.
BUSY = (429, 503)

# TensorFlow's names of the dtypes in our signatures; JSON alone does not distinguish them.
_DTYPES = {
    "DT_FLOAT": np.float32,
    "DT_DOUBLE": np.float64,
    "DT_INT32": np.int32,
    "DT_INT64": np.int64,
    "DT_UINT8": np.uint8,
    "DT_BOOL": np.bool_,
    "DT_STRING": object,
}


@dataclass(frozen=True)
class RestInterface:
    """What is asked of a server and how its answers are read, without a connection.

    Attributes:
      endpoint: http://host:port.
      version: of the models; the newest if None.
      timeout: seconds of a request.
    """

    endpoint: str
    version: Version
    timeout: float

    def url(self, model: str, what: str) -> str:
        """The address of something of a model, such as `:predict`."""
        kind = "versions" if isinstance(self.version, int) else "labels"
        chosen = "" if self.version is None else f"/{kind}/{urllib.parse.quote(str(self.version), safe='')}"
        return f"{self.endpoint.rstrip('/')}/v1/models/{urllib.parse.quote(model)}{chosen}{what}"

    def body(self, signature: str, inputs: Mapping[str, Array]) -> bytes:
        """The body of a `:predict` request."""
        values = {name: encode_input(array) for name, array in inputs.items()}
        return json.dumps({"signature_name": signature, "inputs": values}).encode()

    def parsed(self, content: bytes) -> Any:
        """The JSON of an answer; raises ClientError if it is none, or too long."""
        if len(content) > MAX_ANSWER_BYTES:
            raise ClientError(
                f"answer of {self.endpoint} must be at most {MAX_ANSWER_BYTES} bytes: request fewer rows"
            )
        try:
            return json.loads(content)
        except ValueError as error:
            raise ClientError(f"{self.endpoint} must answer with JSON; is it a model server?") from error

    def signatures(self, model: str, answer: Any) -> dict[str, Any]:
        """The signatures in an answer of `/metadata`; raises ClientError if it has none."""
        try:
            found: dict[str, Any] = answer["metadata"]["signature_def"]["signature_def"]
        except (KeyError, TypeError) as error:
            raise ClientError(f"{self.endpoint} must answer with the signatures of {model}") from error
        return found

    def dtypes(self, model: str, signature: str, signatures: Mapping[str, Any]) -> dict[str, Any]:
        """The dtypes of a signature's outputs; raises ClientError if the model has no such signature."""
        if signature not in signatures:
            known = ", ".join(sorted(signatures))
            raise ClientError(f"signature of {model} must be one of {known}, got {signature!r}")
        return {name: _DTYPES[info["dtype"]] for name, info in signatures[signature]["outputs"].items()}

    def outputs(self, model: str, signature: str, dtypes: Mapping[str, Any], answer: Any) -> dict[str, Array]:
        """The arrays in an answer of `:predict`; raises ClientError if it has none."""
        try:
            given = answer["outputs"] if len(dtypes) > 1 else dict.fromkeys(dtypes, answer["outputs"])
            return {name: decode(name, given[name], dtype) for name, dtype in dtypes.items()}
        except (KeyError, TypeError, RequestError) as error:
            raise ClientError(f"{self.endpoint} must answer {model}:{signature} with tensors") from error

    def refusal(self, status: int, reason: str, content: bytes) -> ClientError:
        """The error of an answer with another status than 200."""
        try:
            message = " ".join(json.loads(content)["error"].split())
        except (ValueError, KeyError, TypeError, AttributeError):
            message = f"{status} {reason}"
        kind = RefusedError if status == http.HTTPStatus.BAD_REQUEST else ClientError
        return kind(f"{self.endpoint} refused: {message}")

    def silence(self) -> ClientError:
        """The error of a request that took too long."""
        return ClientError(f"{self.endpoint} gave no answer in {self.timeout:.0f} seconds")

    def absence(self) -> ClientError:
        """The error of a server that cannot be reached."""
        return ClientError(f"no server answers at {self.endpoint}")


class RestClient(Client):
    """Queries /v1/models at `endpoint` (http://host:port)."""

    def __init__(self, endpoint: str, timeout: float, credentials: Credentials, version: Version):
        self._interface = RestInterface(endpoint, version, timeout)
        self._credentials = credentials.headers
        self._tls = credentials.http if endpoint.startswith("https://") else None
        self._signatures: dict[str, dict[str, Any]] = {}

    def predict(self, model: str, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `Client.predict`."""
        interface = self._interface
        if model not in self._signatures:
            self._signatures[model] = interface.signatures(model, self._ask(model, "/metadata"))
        dtypes = interface.dtypes(model, signature, self._signatures[model])
        answer = self._ask(model, ":predict", interface.body(signature, inputs))
        return interface.outputs(model, signature, dtypes, answer)

    def _ask(self, model: str, what: str, body: bytes | None = None) -> Any:
        # With a body it is a POST.
        request = urllib.request.Request(
            self._interface.url(model, what), data=body, headers={"Content-Type": "application/json"}
        )
        # Not to where a redirect may lead.
        for name, value in self._credentials.items():
            request.add_unredirected_header(name, value)
        try:
            answer = self._answer(request)
        except urllib.error.HTTPError as error:
            raise self._interface.refusal(error.code, error.reason, _content(error)) from error
        except TimeoutError as error:
            raise self._interface.silence() from error
        except (OSError, ValueError, OverflowError, http.client.HTTPException) as error:
            raise self._interface.absence() from error
        return self._interface.parsed(answer)

    def _answer(self, request: urllib.request.Request) -> bytes:
        """The body of an answer; a server that is busy or restarts is asked again, within the time limit."""
        end = time.monotonic() + self._interface.timeout
        for attempt in itertools.count(1):
            left = max(end - time.monotonic(), 0.001)
            try:
                with urllib.request.urlopen(request, timeout=left, context=self._tls) as response:
                    answer: bytes = response.read(MAX_ANSWER_BYTES + 1)
                    return answer
            except urllib.error.URLError as error:
                pause = backoff(attempt)
                if attempt == ATTEMPTS or not _passes(error) or time.monotonic() + pause > end:
                    raise
                time.sleep(pause)
        raise AssertionError  # the loop ends only by a return or an error


def backoff(attempt: int) -> float:
    """Seconds to wait after the attempt of this number, from 1."""
    return float(BACKOFF * 2 ** (attempt - 1) * random.uniform(0.8, 1.2))


def _passes(error: urllib.error.URLError) -> bool:
    """Whether the same request may be answered later."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in BUSY
    return isinstance(error.reason, ConnectionRefusedError)


def _content(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read(MAX_ANSWER_BYTES)
    except (OSError, ValueError, http.client.HTTPException):
        return b""
