"""TF Serving's gRPC services: PredictionService and ModelService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.server.models import ModelRepository
from serving.server.servable import DEFAULT_SIGNATURE, Servable
from serving.server.worker_pool import WorkerPool
from serving.wire.errors import RequestError, invalid
from serving.wire.tensor_protos import from_protos, to_proto

_STATUS = get_model_status_pb2.ModelVersionStatus
_SIGNATURE_DEF = "signature_def"


def add_services(server: grpc.aio.Server, repository: ModelRepository, pool: WorkerPool) -> None:
    """Add the services of the repository's models to `server`."""
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(repository, pool), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(repository), server)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the older calls answer UNIMPLEMENTED."""

    def __init__(self, repository: ModelRepository, pool: WorkerPool):
        self._repository = repository
        self._pool = pool

    async def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.aio.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Run one signature."""
        version, label = _choice(request.model_spec)
        async with _status(context):
            model = self._repository.model(request.model_spec.name)
            with self._pool.admission(), model.lease(version, label) as servable:
                return await self._pool.run(
                    lambda: _predict(servable, request), seconds=context.time_remaining()
                )

    async def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Return the signatures, as stored in the SavedModel."""
        version, label = _choice(request.model_spec)
        async with _status(context):
            if list(request.metadata_field) != [_SIGNATURE_DEF]:
                given = ", ".join(request.metadata_field) or "none"
                raise invalid(f"metadata_field must be {_SIGNATURE_DEF}, got {given}")
            with self._repository.model(request.model_spec.name).lease(version, label) as servable:
                response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=_spec(servable))
                response.metadata[_SIGNATURE_DEF].Pack(signature_def_map(servable))
                return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; HandleReloadConfigRequest answers UNIMPLEMENTED, as the folder is the configuration."""

    def __init__(self, repository: ModelRepository):
        self._repository = repository

    async def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.aio.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Return the state of every version, with the error of those that did not load."""
        version, label = _choice(request.model_spec)
        async with _status(context):
            response = get_model_status_pb2.GetModelStatusResponse()
            for status in self._repository.model(request.model_spec.name).statuses(version, label):
                answer = response.model_version_status.add(
                    version=status.version, state=_STATUS.State.Value(status.state)
                )
                if status.error:
                    answer.status.error_code = status.error.code.value[0]
                    answer.status.error_message = status.error.message
            return response


def signature_def_map(servable: Servable) -> get_model_metadata_pb2.SignatureDefMap:
    """Return the signatures of a loaded version as TF Serving's SignatureDefMap."""
    return get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signature_defs)


def _predict(servable: Servable, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    outputs = servable.predict(name, from_protos(request.inputs), request.output_filter)
    return predict_pb2.PredictResponse(
        model_spec=_spec(servable, name), outputs={name: to_proto(array) for name, array in outputs.items()}
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
async def _status(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    try:
        yield
    except RequestError as error:
        await context.abort(error.code, error.message)
