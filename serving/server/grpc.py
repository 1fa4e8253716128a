"""TF Serving's gRPC services: PredictionService and ModelService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
)

from serving.server import image_limit, model_config
from serving.server.backend import Backend
from serving.server.batching import Arrays, Call, bytes_of
from serving.server.model import Model
from serving.server.models import ModelRepository
from serving.server.observation import Observer, Seen
from serving.server.scheduler import Scheduler
from serving.server.servable import DEFAULT_SIGNATURE, Servable
from serving.wire.errors import RequestError, ServingError, invalid
from serving.wire.tensor_protos import from_protos, specs_of, to_proto

T = TypeVar("T")
Method = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Message]]

_STATUS = get_model_status_pb2.ModelVersionStatus
_SIGNATURE_DEF = "signature_def"
GRPC = "GRPC"
# Larger messages are converted in a thread, so that others are answered meanwhile.
_SMALL = 2**16


def add_services(server: grpc.aio.Server, backend: Backend) -> list[str]:
    """Add the services of the backend's models to `server`, and return their names.

    Older calls answer UNIMPLEMENTED.
    """
    prediction = PredictionService(backend)
    models = ModelService(backend.repository, backend.observer)
    # By their names: protobuf 6, of lane B, refuses `model_service_pb2` of TF Serving's package.
    services: dict[str, dict[str, tuple[Method, type[Message]]]] = {
        "tensorflow.serving.PredictionService": {
            "Predict": (prediction.Predict, predict_pb2.PredictRequest),
            "GetModelMetadata": (
                prediction.GetModelMetadata,
                get_model_metadata_pb2.GetModelMetadataRequest,
            ),
        },
        "tensorflow.serving.ModelService": {
            "GetModelStatus": (models.GetModelStatus, get_model_status_pb2.GetModelStatusRequest),
            "HandleReloadConfigRequest": (
                models.HandleReloadConfigRequest,
                model_management_pb2.ReloadConfigRequest,
            ),
        },
    }
    for service, methods in services.items():
        add_service(server, service, methods)
    return list(services)


def add_service(
    server: grpc.aio.Server, service: str, methods: Mapping[str, tuple[Method, type[Message]]]
) -> None:
    """Add a service with its methods and their requests, by name."""
    handlers = {name: _handler(method, request) for name, (method, request) in methods.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


def _handler(method: Method, request_type: type[Message]) -> grpc.RpcMethodHandler:
    """A handler that answers a damaged message with INVALID_ARGUMENT; gRPC itself would say UNKNOWN."""

    async def parsed(body: bytes, context: grpc.aio.ServicerContext) -> Message:
        try:
            request = request_type.FromString(body)
        except DecodeError:
            name = request_type.DESCRIPTOR.name
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"message must be a {name}, got damaged bytes"
            )
        return await method(request, context)

    return grpc.unary_unary_rpc_method_handler(
        parsed, request_deserializer=None, response_serializer=lambda answer: answer.SerializeToString()
    )


class PredictionService:
    """Predict and GetModelMetadata."""

    def __init__(self, backend: Backend):
        self._repository = backend.repository
        self._scheduler = backend.scheduler
        self._observer = backend.observer
        self._max_image_pixels = backend.max_image_pixels

    async def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.aio.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Run one signature."""
        version, label = _choice(request.model_spec)
        async with aborting(context):
            with self._observer.observe(GRPC, "Predict") as seen:
                model = self._repository.model(request.model_spec.name)
                seen.model, seen.signature = model.name, request.model_spec.signature_name
                with model.lease(version, label) as servable:
                    seen.version = servable.version
                    return await self._predicted(request, servable, seen, context.time_remaining())

    async def _predicted(
        self, request: predict_pb2.PredictRequest, servable: Servable, seen: Seen, seconds: float | None
    ) -> predict_pb2.PredictResponse:
        call = await read_in_bounds(
            self._scheduler, request, lambda: _call(servable, request, self._max_image_pixels)
        )
        outputs = await self._scheduler.run(call, seen, seconds)
        return await converted(self._scheduler, bytes_of(outputs), lambda: _answer(call, outputs))

    async def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Return the signatures, as stored in the SavedModel."""
        version, label = _choice(request.model_spec)
        async with aborting(context):
            with self._observer.observe(GRPC, "GetModelMetadata") as seen:
                model = self._repository.model(request.model_spec.name)
                seen.model = model.name
                return self._metadata(model, version, label, request)

    def _metadata(
        self,
        model: Model,
        version: int | None,
        label: str | None,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if list(request.metadata_field) != [_SIGNATURE_DEF]:
            given = ", ".join(request.metadata_field) or "none"
            raise invalid(f"metadata_field must be {_SIGNATURE_DEF}, got {given}")
        with model.lease(version, label) as servable:
            response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=_spec(servable))
            response.metadata[_SIGNATURE_DEF].Pack(signature_def_map(servable))
            return response


class ModelService:
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(self, repository: ModelRepository, observer: Observer):
        self._repository = repository
        self._observer = observer

    async def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.aio.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Return the state of every version, with the error of those that did not load."""
        version, label = _choice(request.model_spec)
        async with aborting(context):
            with self._observer.observe(GRPC, "GetModelStatus") as seen:
                model = self._repository.model(request.model_spec.name)
                seen.model = model.name
                statuses = model.statuses(version, label)
            response = get_model_status_pb2.GetModelStatusResponse()
            for status in statuses:
                answer = response.model_version_status.add(
                    version=status.version, state=_STATUS.State.Value(status.state)
                )
                if status.error:
                    answer.status.error_code = status.error.code.value[0]
                    answer.status.error_message = status.error.message
            return response

    async def HandleReloadConfigRequest(
        self, request: model_management_pb2.ReloadConfigRequest, context: grpc.aio.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        """Serve other models, or other versions; answers when they are loaded.

        As in TF Serving the error of a version is in the answer's own status.
        """
        async with aborting(context):
            with self._observer.observe(GRPC, "HandleReloadConfigRequest"):
                try:
                    configs = model_config.of_message(request.config, "config")
                except ServingError as error:
                    raise invalid(str(error)) from error
                refused = await asyncio.to_thread(self._repository.reload, configs)
            response = model_management_pb2.ReloadConfigResponse()
            if refused:
                response.status.error_code = refused[0].code.value[0]
                response.status.error_message = refused[0].message
            return response


async def read_in_bounds(scheduler: Scheduler, request: Message, read: Callable[[], T]) -> T:
    """Read the arrays of a request, whose bytes count as waiting meanwhile.

    Raises:
      RequestError: RESOURCE_EXHAUSTED: too much is waiting; or what `read` raises.
    """
    size = request.ByteSize()
    scheduler.hold(size)
    try:
        return await converted(scheduler, size, read)
    finally:
        scheduler.release(size)


async def converted(scheduler: Scheduler, size: int, work: Callable[[], T]) -> T:
    """Convert so many bytes, in a thread if they are many."""
    return work() if size < _SMALL else await scheduler.in_thread(work)


def signature_def_map(servable: Servable) -> get_model_metadata_pb2.SignatureDefMap:
    """Return the signatures of a loaded version as TF Serving's SignatureDefMap."""
    return get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signature_defs)


def _call(servable: Servable, request: predict_pb2.PredictRequest, max_image_pixels: int) -> Call:
    """The call of a request, checked before any of its tensors is expanded."""
    signature = servable.signature(request.model_spec.signature_name or DEFAULT_SIGNATURE)
    outputs = servable.wanted(signature, request.output_filter)
    # A message may hold any number of unknown inputs: their names are compared first.
    signature.check_names(request.inputs)
    signature.check_inputs(specs_of(request.inputs))
    inputs = from_protos(request.inputs)
    image_limit.check(inputs, max_image_pixels)
    return Call(servable, signature, inputs, outputs)


def _answer(call: Call, outputs: Arrays) -> predict_pb2.PredictResponse:
    return predict_pb2.PredictResponse(
        model_spec=_spec(call.servable, call.signature.name),
        outputs={name: to_proto(array) for name, array in outputs.items()},
    )


def _spec(servable: Servable, signature_name: str = "") -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=servable.model, signature_name=signature_name)
    spec.version.value = servable.version
    return spec


def _choice(spec: model_pb2.ModelSpec) -> tuple[int | None, str | None]:
    choice = spec.WhichOneof("version_choice")
    return (
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


@asynccontextmanager
async def aborting(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """End the call with the status of a RequestError."""
    try:
        yield
    except RequestError as error:
        await context.abort(error.code, error.message)
