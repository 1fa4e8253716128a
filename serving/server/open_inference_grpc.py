"""The Open Inference Protocol, version 2, over gRPC: the same models as over REST (`open_inference`)."""

from __future__ import annotations

import contextlib
from typing import Any

import grpc
import tensorflow as tf

from serving.server.backend import Backend
from serving.server.batching import Call, bytes_of
from serving.server.grpc import GRPC, aborting, add_service, converted, read_in_bounds
from serving.server.open_inference import PLATFORM, SERVER, available, described
from serving.server.servable import Servable
from serving.wire import open_inference_protos
from serving.wire.errors import RequestError
from serving.wire.open_inference_protos import SERVICE, message


def add_service_to(server: grpc.aio.Server, backend: Backend) -> str:
    """Add the service to `server`, and return its name."""
    service = OpenInferenceGrpc(backend)
    methods = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer")
    add_service(
        server, SERVICE, {name: (getattr(service, name), message(f"{name}Request")) for name in methods}
    )
    return SERVICE


class OpenInferenceGrpc:
    """The service; its messages are `open_inference_protos.message` of their names."""

    def __init__(self, backend: Backend):
        self._backend = backend

    async def ServerLive(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Answer that the server lives."""
        del request, context
        return message("ServerLiveResponse")(live=True)

    async def ServerReady(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Answer that the server is ready: it listens when its models are warm."""
        del request, context
        return message("ServerReadyResponse")(ready=True)

    async def ServerMetadata(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Return what this is."""
        del request, context
        return message("ServerMetadataResponse")(name=SERVER, version=tf.__version__)

    async def ModelReady(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Tell whether a model is served."""
        del context
        ready = message("ModelReadyResponse")
        try:
            with self._backend.observer.observe(GRPC, "ModelReady") as seen, contextlib.ExitStack() as stack:
                self._backend.lease_signature(request.name, request.version or None, seen, stack)
        except RequestError:
            return ready(ready=False)
        return ready(ready=True)

    async def ModelMetadata(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Return the inputs and outputs of a model."""
        async with aborting(context):
            with (
                self._backend.observer.observe(GRPC, "ModelMetadata") as seen,
                contextlib.ExitStack() as stack,
            ):
                model, servable, name = self._backend.lease_signature(
                    request.name, request.version or None, seen, stack
                )
                signature = servable.signature(name)
                return message("ModelMetadataResponse")(
                    name=request.name,
                    versions=available(model),
                    platform=PLATFORM,
                    inputs=[described(name, spec) for name, spec in signature.inputs.items()],
                    outputs=[described(name, spec) for name, spec in signature.outputs.items()],
                )

    async def ModelInfer(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Run a signature."""
        backend, scheduler = self._backend, self._backend.scheduler
        async with aborting(context):
            with backend.observer.observe(GRPC, "ModelInfer") as seen, contextlib.ExitStack() as stack:
                _, servable, name = backend.lease_signature(
                    request.model_name, request.model_version or None, seen, stack
                )
                call = await read_in_bounds(scheduler, request, lambda: self._call(servable, name, request))
                seen.signature = call.signature.name
                outputs = await scheduler.run(call, seen, context.time_remaining())

                def write() -> Any:
                    return open_inference_protos.answer(request, outputs, servable.version)

                return await converted(scheduler, bytes_of(outputs), write)

    def _call(self, servable: Servable, name: str, request: Any) -> Call:
        signature = servable.signature(name)
        # A message may hold any number of unknown inputs: their names are compared first.
        signature.check_names([one.name for one in request.inputs])
        signature.check_inputs(open_inference_protos.specs_of(request))
        inputs = open_inference_protos.inputs_of(request)
        return self._backend.call(servable, name, inputs, [one.name for one in request.outputs])
