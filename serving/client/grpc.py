"""The gRPC client."""

from __future__ import annotations

import json
from collections.abc import Mapping

import grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.client.client import ATTEMPTS, BACKOFF, Array, Client, Version
from serving.client.credentials import Credentials
from serving.wire.errors import ClientError, RequestError
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


class GrpcClient(Client):
    """Queries PredictionService at `endpoint` (grpc://host:port, or grpcs:// over TLS)."""

    def __init__(self, endpoint: str, timeout: float, credentials: Credentials, version: Version):
        self._endpoint = endpoint
        self._timeout = timeout
        self._version = version
        scheme, _, address = endpoint.partition("://")
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", KEEP_ALIVE_MS),
            ("grpc.service_config", _RETRIES),
        ]
        if scheme == "grpcs":
            self._channel = grpc.secure_channel(address, credentials.grpc, options=options)
        else:
            self._channel = grpc.insecure_channel(address, options=options)
        self._metadata = tuple(credentials.headers.items())
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def predict(self, model: str, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `Client.predict`."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        if isinstance(self._version, int):
            request.model_spec.version.value = self._version
        elif self._version is not None:
            request.model_spec.version_label = self._version
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(to_proto(array))
        try:
            return from_protos(
                self._stub.Predict(request, timeout=self._timeout, metadata=self._metadata).outputs
            )
        except grpc.RpcError as error:
            raise ClientError(self._reason(error)) from error
        except RequestError as error:
            raise ClientError(f"{self._endpoint} must answer with tensors: {error}") from error

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _reason(self, error: grpc.RpcError) -> str:
        code, details = error.code(), " ".join((error.details() or "").split())
        if code is grpc.StatusCode.UNAVAILABLE:
            return f"no server answers at {self._endpoint}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"{self._endpoint} gave no answer in {self._timeout:.0f} seconds"
        return f"{self._endpoint} refused: {details}"
