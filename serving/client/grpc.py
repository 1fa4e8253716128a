"""The clients over gRPC."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.client.aio import AsyncClient
from serving.client.client import ATTEMPTS, BACKOFF, Array, Client, Version
from serving.client.credentials import Credentials
from serving.wire.errors import ClientError, RefusedError, RequestError
from serving.wire.tensor_protos import from_protos, to_proto

# gRPC's own limit of 4 MiB is a few hundred images.
MAX_MESSAGE_BYTES = 64 * 2**20
# Load balancers close connections that are idle for some minutes.
KEEP_ALIVE_MS = 120_000
# By gRPC itself, with jitter, within the time limit of a call: a busy server and one that restarts.
_RETRIES = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "tensorflow.serving.PredictionService"}],
                "retryPolicy": {
                    "maxAttempts": ATTEMPTS,
                    "initialBackoff": f"{BACKOFF}s",
                    "maxBackoff": "5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
                },
            }
        ]
    }
)

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEP_ALIVE_MS),
    ("grpc.service_config", _RETRIES),
)


class GrpcClient(Client):
    """Queries PredictionService at `endpoint` (grpc://host:port, or grpcs:// over TLS)."""

    def __init__(self, endpoint: str, timeout: float, credentials: Credentials, version: Version):
        self._endpoint, self._timeout, self._version = endpoint, timeout, version
        self._channel = _channel(grpc, endpoint, credentials)
        self._headers = tuple(credentials.headers.items())
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def predict(self, model: str, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `Client.predict`."""
        request = _request(model, signature, self._version, inputs)
        with _one_line(self._endpoint, self._timeout):
            answer = self._stub.Predict(request, timeout=self._timeout, metadata=self._headers)
            return from_protos(answer.outputs)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class AsyncGrpcClient(AsyncClient):
    """`GrpcClient` for asyncio; made where an event loop runs."""

    def __init__(self, endpoint: str, timeout: float, credentials: Credentials, version: Version):
        self._endpoint, self._timeout, self._version = endpoint, timeout, version
        self._channel = _channel(grpc.aio, endpoint, credentials)
        self._headers = tuple(credentials.headers.items())
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    async def predict(self, model: str, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `AsyncClient.predict`."""
        request = _request(model, signature, self._version, inputs)
        with _one_line(self._endpoint, self._timeout):
            answer = await self._stub.Predict(request, timeout=self._timeout, metadata=self._headers)
            return from_protos(answer.outputs)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


def _channel(kind: Any, endpoint: str, credentials: Credentials) -> Any:
    """The channel to an endpoint: of `grpc`, or of `grpc.aio`."""
    scheme, _, address = endpoint.partition("://")
    if scheme == "grpcs":
        return kind.secure_channel(address, credentials.grpc, options=_OPTIONS)
    return kind.insecure_channel(address, options=_OPTIONS)


def _request(
    model: str, signature: str, version: Version, inputs: Mapping[str, Array]
) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if isinstance(version, int):
        request.model_spec.version.value = version
    elif version is not None:
        request.model_spec.version_label = version
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(to_proto(array))
    return request


@contextlib.contextmanager
def _one_line(endpoint: str, timeout: float) -> Iterator[None]:
    """Raise the errors of a call as a ClientError."""
    try:
        yield
    except grpc.RpcError as error:
        kind = RefusedError if error.code() is grpc.StatusCode.INVALID_ARGUMENT else ClientError
        raise kind(_reason(error, endpoint, timeout)) from error
    except RequestError as error:
        raise ClientError(f"{endpoint} must answer with tensors: {error}") from error


def _reason(error: grpc.RpcError, endpoint: str, timeout: float) -> str:
    code, details = error.code(), " ".join((error.details() or "").split())
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"no server answers at {endpoint}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{endpoint} gave no answer in {timeout:.0f} seconds"
    return f"{endpoint} refused: {details}"
