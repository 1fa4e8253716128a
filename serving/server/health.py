"""Whether the server is alive, as gRPC's health service says it, and which services it has, for grpcurl."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

# By their names: `model_service_pb2` of TF Serving's package cannot be imported beside protobuf 6, of lane B.
_SERVICES = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")


class Health:
    """The health of a server with models: it serves from its start on until it ends."""

    def __init__(self, server: grpc.aio.Server):
        self._servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        reflection.enable_server_reflection(
            [*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME], server
        )

    async def serving(self) -> None:
        """Say that all services answer."""
        for name in ("", *_SERVICES):
            await self._servicer.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def ending(self) -> None:
        """Say that no further request should come; those that run are finished."""
        await self._servicer.enter_graceful_shutdown()
