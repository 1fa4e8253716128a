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
from typing import Any

import numpy as np

from serving.client.client import ATTEMPTS, BACKOFF, Array, Client, Version
from serving.client.credentials import Credentials
from serving.wire.errors import ClientError, RefusedError, RequestError
from serving.wire.json_tensors import decode, encode_input

MAX_ANSWER_BYTES = 64 * 2**20

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


class RestClient(Client):
    """Queries /v1/models at `endpoint` (http://host:port)."""

    def __init__(self, endpoint: str, timeout: float, credentials: Credentials, version: Version):
        self._endpoint = endpoint.rstrip("/")
        self._timeout = timeout
        self._credentials = credentials.headers
        self._tls = credentials.http if endpoint.startswith("https://") else None
        kind = "versions" if isinstance(version, int) else "labels"
        self._version = "" if version is None else f"/{kind}/{urllib.parse.quote(str(version), safe='')}"
        self._signatures: dict[str, dict[str, Any]] = {}

    def predict(self, model: str, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `Client.predict`."""
        dtypes = self._output_dtypes(model, signature)
        values = {name: encode_input(array) for name, array in inputs.items()}
        answer = self._ask(model, ":predict", {"signature_name": signature, "inputs": values})
        try:
            outputs = answer["outputs"] if len(dtypes) > 1 else dict.fromkeys(dtypes, answer["outputs"])
            return {name: decode(name, outputs[name], dtype) for name, dtype in dtypes.items()}
        except (KeyError, TypeError, RequestError) as error:
            raise ClientError(f"{self._endpoint} must answer {model}:{signature} with tensors") from error

    def _output_dtypes(self, model: str, signature: str) -> dict[str, Any]:
        if model not in self._signatures:
            answer = self._ask(model, "/metadata")
            try:
                self._signatures[model] = answer["metadata"]["signature_def"]["signature_def"]
            except (KeyError, TypeError) as error:
                raise ClientError(f"{self._endpoint} must answer with the signatures of {model}") from error
        signatures = self._signatures[model]
        if signature not in signatures:
            known = ", ".join(sorted(signatures))
            raise ClientError(f"signature of {model} must be one of {known}, got {signature!r}")
        return {name: _DTYPES[info["dtype"]] for name, info in signatures[signature]["outputs"].items()}

    def _ask(self, model: str, what: str, body: Mapping[str, Any] | None = None) -> Any:
        # With a body it is a POST.
        request = urllib.request.Request(
            f"{self._endpoint}/v1/models/{urllib.parse.quote(model)}{self._version}{what}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        # Not to where a redirect may lead.
        for name, value in self._credentials.items():
            request.add_unredirected_header(name, value)
        try:
            answer = self._answer(request)
        except urllib.error.HTTPError as error:
            kind = RefusedError if error.code == http.HTTPStatus.BAD_REQUEST else ClientError
            raise kind(f"{self._endpoint} refused: {_message(error)}") from error
        except TimeoutError as error:
            raise ClientError(f"{self._endpoint} gave no answer in {self._timeout:.0f} seconds") from error
        except (OSError, ValueError, OverflowError, http.client.HTTPException) as error:
            raise ClientError(f"no server answers at {self._endpoint}") from error
        if len(answer) > MAX_ANSWER_BYTES:
            raise ClientError(
                f"answer of {self._endpoint} must be at most {MAX_ANSWER_BYTES} bytes: request fewer rows"
            )
        try:
            return json.loads(answer)
        except ValueError as error:
            raise ClientError(f"{self._endpoint} must answer with JSON; is it a model server?") from error

    def _answer(self, request: urllib.request.Request) -> bytes:
        """The body of an answer; a server that is busy or restarts is asked again, within the time limit."""
        end = time.monotonic() + self._timeout
        for attempt in itertools.count(1):
            left = max(end - time.monotonic(), 0.001)
            try:
                with urllib.request.urlopen(request, timeout=left, context=self._tls) as response:
                    answer: bytes = response.read(MAX_ANSWER_BYTES + 1)
                    return answer
            except urllib.error.URLError as error:
                pause = BACKOFF * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
                if attempt == ATTEMPTS or not _passes(error) or time.monotonic() + pause > end:
                    raise
                time.sleep(pause)
        raise AssertionError  # the loop ends only by a return or an error


def _passes(error: urllib.error.URLError) -> bool:
    """Whether the same request may be answered later."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (429, 503)
    return isinstance(error.reason, ConnectionRefusedError)


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return " ".join(json.loads(error.read(MAX_ANSWER_BYTES))["error"].split())
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{error.code} {error.reason}"
