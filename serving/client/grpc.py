"""The gRPC client."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.client.client import Array, Client
from serving.wire.errors import ClientError, RequestError
from serving.wire.tensor_protos import from_protos, to_proto

# gRPC's own limit of 4 MiB is a few hundred images.
MAX_MESSAGE_BYTES = 64 * 2**20


class GrpcClient(Client):
    """Queries PredictionService at `address` (host:port)."""

    def __init__(self, address: str, timeout: float):
        self._address = address
        self._timeout = timeout
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ],
        )
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def predict(self, model: str, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `Client.predict`."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(to_proto(array))
        try:
            return from_protos(self._stub.Predict(request, timeout=self._timeout).outputs)
        except grpc.RpcError as error:
            raise ClientError(self._reason(error)) from error
        except RequestError as error:
            raise ClientError(f"grpc://{self._address} must answer with tensors: {error}") from error

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _reason(self, error: grpc.RpcError) -> str:
        code, details = error.code(), " ".join((error.details() or "").split())
        if code is grpc.StatusCode.UNAVAILABLE:
            return f"no server answers at grpc://{self._address}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"grpc://{self._address} gave no answer in {self._timeout:.0f} seconds"
        return f"grpc://{self._address} refused: {details}"
