"""Whether the server is alive, as gRPC's health service says it, and which services it has, for grpcurl."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection


class Health:
    """The health of a server and of its services: all answer from its start until it ends."""

    def __init__(self, server: grpc.aio.Server, services: Sequence[str], unlisted: Sequence[str] = ()):
        """Tell the health of all services; reflection has those whose messages are in the default pool.

        Args:
          server: of the services.
          services: their names.
          unlisted: the names of those with messages in a pool of their own.
        """
        self._services = [*services, *unlisted]
        self._servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        shown = [*services, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(shown, server)

    async def serving(self) -> None:
        """Say that all services answer."""
        for name in ("", *self._services):
            await self._servicer.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def ending(self) -> None:
        """Say that no further request should come; those that run are finished."""
        await self._servicer.enter_graceful_shutdown()
