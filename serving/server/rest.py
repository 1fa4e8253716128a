"""TF Serving's REST interface: model status, metadata and :predict."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import grpc
from aiohttp import web
from aiohttp.typedefs import Handler
from google.protobuf import json_format

from serving.server.grpc import signature_def_map
from serving.server.models import Model, ModelRepository
from serving.server.servable import Servable
from serving.server.worker_pool import WorkerPool
from serving.wire.errors import RequestError, invalid
from serving.wire.json_tensors import PredictBody

# HTTP statuses of TF Serving's REST interface by gRPC status; 500 for all others.
_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_MAX_VERSION = 2**63 - 1


def application(
    repository: ModelRepository, pool: WorkerPool, *, max_body_bytes: int, body_seconds: float
) -> web.Application:
    """Create the aiohttp application.

    Args:
      repository: the models to serve.
      pool: runs the models.
      max_body_bytes: a larger body is answered with 413.
      body_seconds: a body that takes longer to arrive is answered with 408.
    """
    service = RestService(repository, pool, body_seconds)
    app = web.Application(client_max_size=max_body_bytes, middlewares=[_errors_as_json])
    for choice in ("", "/versions/{version:[^/:]+}", "/labels/{label:[^/:]+}"):
        prefix = "/v1/models/{model:[^/:]+}" + choice
        app.router.add_get(prefix, service.status)
        app.router.add_get(f"{prefix}/metadata", service.metadata)
        app.router.add_post(f"{prefix}:predict", service.predict)
    return app


class RestService:
    """The handlers of status, metadata and :predict."""

    def __init__(self, repository: ModelRepository, pool: WorkerPool, body_seconds: float):
        self._repository = repository
        self._pool = pool
        self._body_seconds = body_seconds

    async def status(self, request: web.Request) -> web.Response:
        """GET /v1/models/M: the state of every version, with the error of those that did not load."""
        model, version, label = self._choice(request)
        return web.json_response(
            {
                "model_version_status": [
                    {
                        "version": str(status.version),
                        "state": status.state,
                        "status": {
                            "error_code": status.error.code.name if status.error else "OK",
                            "error_message": status.error.message if status.error else "",
                        },
                    }
                    for status in model.statuses(version, label)
                ]
            }
        )

    async def metadata(self, request: web.Request) -> web.Response:
        """GET /v1/models/M/metadata: the signatures."""
        model, version, label = self._choice(request)
        with model.lease(version, label) as servable:
            signatures = json_format.MessageToDict(
                signature_def_map(servable), preserving_proto_field_name=True
            )
            spec = {"name": servable.model, "signature_name": "", "version": str(servable.version)}
            return web.json_response({"model_spec": spec, "metadata": {"signature_def": signatures}})

    async def predict(self, request: web.Request) -> web.Response:
        """POST /v1/models/M:predict: run one signature."""
        model, version, label = self._choice(request)
        with self._pool.admission(), model.lease(version, label) as servable:
            try:
                body = await asyncio.wait_for(request.read(), self._body_seconds)
            except asyncio.TimeoutError as error:
                raise web.HTTPRequestTimeout from error
            answer = await self._pool.run(lambda: _predict(servable, body))
        return web.Response(text=answer, content_type="application/json")

    def _choice(self, request: web.Request) -> tuple[Model, int | None, str | None]:
        version = request.match_info.get("version")
        if version is not None and not (
            version.isascii() and version.isdecimal() and len(version) < 20 and int(version) <= _MAX_VERSION
        ):
            raise invalid(f"version must be an integer from 0 to 2^63 - 1, got {version!r}")
        model = self._repository.model(request.match_info["model"])
        return model, None if version is None else int(version), request.match_info.get("label")


def _predict(servable: Servable, body: bytes) -> str:
    request = PredictBody.from_json(body)
    signature = servable.signature(request.signature_name)
    inputs = request.arrays({name: spec.dtype.as_numpy_dtype for name, spec in signature.inputs.items()})
    return json.dumps(request.answer(servable.predict(signature.name, inputs)))


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RequestError as error:
        return _error(_HTTP_STATUS.get(error.code, 500), error.message)
    except web.HTTPRequestEntityTooLarge:
        return _error(413, f"body must be at most {request.client_max_size} bytes")
    except web.HTTPException as error:
        return _error(error.status, f"{error.reason}: {request.method} {request.path}")
    except Exception:
        logging.getLogger(__name__).exception("%s %s", request.method, request.path)
        return _error(500, "internal error")


def _error(status: int, message: str) -> web.Response:
    answer: dict[str, Any] = {"error": message}
    return web.json_response(answer, status=status)
