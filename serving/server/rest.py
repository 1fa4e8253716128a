"""TF Serving's REST interface: model status, metadata and :predict; beside it the Open Inference Protocol."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import Any

import grpc
from aiohttp import web
from aiohttp.typedefs import Handler
from google.protobuf import json_format

from serving.server.access import Access, token_middleware
from serving.server.backend import Backend, WebBackend
from serving.server.batching import Call
from serving.server.bodies import Bodies
from serving.server.grpc import signature_def_map
from serving.server.json_process import LARGE_TEXT, JsonProcess, is_large
from serving.server.model import Model, version_of
from serving.server.observation import Seen
from serving.server.open_inference import OpenInferenceService
from serving.server.servable import DEFAULT_SIGNATURE, Servable
from serving.wire import json_tensors
from serving.wire.errors import RequestError, printable
from serving.wire.json_tensors import PredictBody

# HTTP statuses of TF Serving's REST interface by gRPC status; 500 for all others.
_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}

REST = "REST"
METRICS = "/monitoring/prometheus/metrics"


def application(
    backend: Backend, *, access: Access, max_body_bytes: int, body_seconds: float, request_seconds: float
) -> web.Application:
    """Create the aiohttp application.

    Args:
      backend: the models; its observer answers `METRICS` too.
      access: who may ask.
      max_body_bytes: a larger body is answered with 413.
      body_seconds: a body that takes longer to arrive is answered with 408.
      request_seconds: to read a large body of JSON, and to write a large answer.
    """
    json_process = JsonProcess(backend.scheduler, request_seconds)
    bodies = Bodies(backend.scheduler, max_body_bytes, body_seconds)
    own = WebBackend(
        backend.repository,
        backend.scheduler,
        backend.observer,
        backend.max_image_pixels,
        bodies,
        json_process,
    )
    service = RestService(own)
    app = web.Application(
        client_max_size=max_body_bytes, middlewares=[_errors_as_json, token_middleware(access)]
    )
    app.router.add_get(METRICS, service.metrics)
    for choice in ("", "/versions/{version:[^/:]+}", "/labels/{label:[^/:]+}"):
        prefix = "/v1/models/{model:[^/:]+}" + choice
        app.router.add_get(prefix, service.status)
        app.router.add_get(f"{prefix}/metadata", service.metadata)
        app.router.add_post(f"{prefix}:predict", service.predict)
    OpenInferenceService(own).add_to(app.router)
    # The first of what ends: what it does is not waited for.
    app.on_shutdown.append(lambda _: asyncio.to_thread(json_process.close))
    return app


class RestService:
    """The handlers of status, metadata, :predict and the metrics."""

    def __init__(self, backend: WebBackend):
        self._backend = backend

    async def status(self, request: web.Request) -> web.Response:
        """GET /v1/models/M: the state of every version, with the error of those that did not load."""
        with self._backend.observer.observe(REST, "GetModelStatus") as seen:
            model, version, label = self._choice(request, seen)
            statuses = model.statuses(version, label)
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
                    for status in statuses
                ]
            }
        )

    async def metadata(self, request: web.Request) -> web.Response:
        """GET /v1/models/M/metadata: the signatures."""
        with contextlib.ExitStack() as stack:
            seen = stack.enter_context(self._backend.observer.observe(REST, "GetModelMetadata"))
            model, version, label = self._choice(request, seen)
            servable = stack.enter_context(model.lease(version, label))
            signatures = json_format.MessageToDict(
                signature_def_map(servable), preserving_proto_field_name=True
            )
            spec = {"name": servable.model, "signature_name": "", "version": str(servable.version)}
            return web.json_response({"model_spec": spec, "metadata": {"signature_def": signatures}})

    async def predict(self, request: web.Request) -> web.Response:
        """POST /v1/models/M:predict: run one signature."""
        with contextlib.ExitStack() as stack:
            seen = stack.enter_context(self._backend.observer.observe(REST, "Predict"))
            model, version, label = self._choice(request, seen)
            servable = stack.enter_context(model.lease(version, label))
            seen.version = servable.version
            asked, call = await self._read(request, servable)
            seen.signature = call.signature.name
            outputs = await self._backend.scheduler.run(call, seen)
            answer = await self._backend.json.run(json_tensors.write, asked, outputs, large=is_large(outputs))
        return web.Response(text=answer, content_type="application/json")

    async def _read(self, request: web.Request, servable: Servable) -> tuple[PredictBody, Call]:
        backend = self._backend
        async with backend.bodies.read(request) as body:
            large = len(body) >= LARGE_TEXT
            asked, inputs = await backend.json.run(json_tensors.read, body, _dtypes(servable), large=large)
            check = functools.partial(backend.call, servable, asked.signature_name, inputs)
            return asked, await backend.scheduler.in_thread(check)

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /monitoring/prometheus/metrics, TF Serving's default path."""
        del request
        return web.Response(text=self._backend.observer.exposition(), content_type="text/plain")

    def _choice(self, request: web.Request, seen: Seen) -> tuple[Model, int | None, str | None]:
        version = version_of(request.match_info.get("version"))
        model = self._backend.repository.model(request.match_info["model"])
        seen.model = model.name
        return model, version, request.match_info.get("label")


def _dtypes(servable: Servable) -> dict[str, dict[str, Any]]:
    """NumPy's dtypes of the inputs of each signature, "" for the default one."""
    dtypes = {
        name: {key: spec.dtype.as_numpy_dtype for key, spec in signature.inputs.items()}
        for name, signature in servable.signatures.items()
    }
    return {**dtypes, "": dtypes.get(DEFAULT_SIGNATURE, {})}


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await _answered(request, handler)
    if not request.content.is_eof():
        # What is left of a refused body is not waited for.
        response.force_close()
    return response


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RequestError as error:
        return _error(_HTTP_STATUS.get(error.code, 500), error.message)
    except web.HTTPRequestEntityTooLarge:
        return _error(413, f"body must be at most {request.client_max_size} bytes")
    except web.HTTPException as error:
        return _error(error.status, printable(f"{error.reason}: {request.method} {request.path}"))
    except Exception:
        logging.getLogger(__name__).exception("%s %s", request.method, printable(request.path))
        return _error(500, "internal error")


def _error(status: int, message: str) -> web.Response:
    answer: dict[str, Any] = {"error": message}
    return web.json_response(answer, status=status)
