"""The Open Inference Protocol, version 2, over REST, which the clients of KServe and Triton speak.

A model of this protocol is one signature: `vim.generate`, `vit_vqgan.encode`; a bare `vim` is its
`serving_default`. Health, metadata and infer, with the extension for binary tensors. Over gRPC it is in
`open_inference_grpc`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import tensorflow as tf
from aiohttp import web

from serving.server.access import OPEN_PATHS
from serving.server.backend import WebBackend
from serving.server.json_process import LARGE_TEXT, is_large
from serving.server.model import Model
from serving.server.observation import Seen
from serving.server.servable import Servable
from serving.wire.errors import invalid
from serving.wire.open_inference import InferRequest, datatype

REST = "REST"
SERVER, PLATFORM = "tfx-vim", "tensorflow_savedmodel"
_LENGTH = "Inference-Header-Content-Length"


class OpenInferenceService:
    """The handlers below /v2."""

    def __init__(self, backend: WebBackend):
        self._backend = backend

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        for path in OPEN_PATHS:
            router.add_get(path, self.healthy)
        router.add_get("/v2", self.server)
        for choice in ("", "/versions/{version:[^/]+}"):
            prefix = "/v2/models/{model:[^/]+}" + choice
            router.add_get(prefix, self.metadata)
            router.add_get(f"{prefix}/ready", self.ready)
            router.add_post(f"{prefix}/infer", self.infer)

    async def healthy(self, request: web.Request) -> web.Response:
        """GET /v2/health/live and /ready: a server listens when its models are warm."""
        del request
        return web.Response()

    async def server(self, request: web.Request) -> web.Response:
        """GET /v2: what this is."""
        del request
        return web.json_response(
            {"name": SERVER, "version": tf.__version__, "extensions": ["binary_tensor_data"]}
        )

    async def ready(self, request: web.Request) -> web.Response:
        """GET /v2/models/M/ready: 200 if it is served, else 404."""
        with self._backend.observer.observe(REST, "ModelReady") as seen, contextlib.ExitStack() as stack:
            self._leased(request, seen, stack)
        return web.Response()

    async def metadata(self, request: web.Request) -> web.Response:
        """GET /v2/models/M: inputs and outputs."""
        with self._backend.observer.observe(REST, "ModelMetadata") as seen, contextlib.ExitStack() as stack:
            model, servable, signature = self._leased(request, seen, stack)
            found = servable.signature(signature)
            return web.json_response(
                {
                    "name": request.match_info["model"],
                    "versions": available(model),
                    "platform": PLATFORM,
                    "inputs": [described(name, spec) for name, spec in found.inputs.items()],
                    "outputs": [described(name, spec) for name, spec in found.outputs.items()],
                }
            )

    async def infer(self, request: web.Request) -> web.Response:
        """POST /v2/models/M/infer: run the signature."""
        backend = self._backend
        with contextlib.ExitStack() as stack:
            seen = stack.enter_context(backend.observer.observe(REST, "ModelInfer"))
            _, servable, signature = self._leased(request, seen, stack)
            length = _json_bytes(request)
            async with backend.bodies.read(request) as body:
                large = (len(body) if length is None else length) >= LARGE_TEXT
                asked = await backend.json.run(InferRequest.parse, body, length, large=large)
                check = functools.partial(backend.call, servable, signature, asked.inputs, asked.outputs)
                call = await backend.scheduler.in_thread(check)
            seen.signature = call.signature.name
            outputs = await backend.scheduler.run(call, seen)
            head = {"model_name": request.match_info["model"], "model_version": str(servable.version)}
            asked = dataclasses.replace(asked, inputs={})
            large = is_large({name: array for name, array in outputs.items() if not asked.is_binary(name)})
            content, binary = await backend.json.run(asked.write, outputs, head, large=large)
        if not binary:
            return web.Response(body=content, content_type="application/json")
        return web.Response(
            body=content + binary,
            content_type="application/octet-stream",
            headers={_LENGTH: str(len(content))},
        )

    def _leased(
        self, request: web.Request, seen: Seen, stack: contextlib.ExitStack
    ) -> tuple[Model, Servable, str]:
        """The model, its version, and the name of the signature that a path names."""
        path = request.match_info
        return self._backend.lease_signature(path["model"], path.get("version"), seen, stack)


def _json_bytes(request: web.Request) -> int | None:
    """The length of the JSON in a body, if bytes are behind it."""
    stated = request.headers.get(_LENGTH)
    if stated is None:
        return None
    if not (stated.isascii() and stated.isdecimal() and len(stated) < 20):
        raise invalid(f"{_LENGTH} must be a number of bytes, got {stated!r}")
    return int(stated)


def available(model: Model) -> list[str]:
    """The versions of a model that are served."""
    return [str(one.version) for one in model.statuses() if one.state == "AVAILABLE"]


def described(name: str, spec: tf.TensorSpec) -> dict[str, Any]:
    """Name, datatype and shape of an input or output; -1 is any size."""
    return {
        "name": name,
        "datatype": datatype(spec.dtype.as_numpy_dtype),
        "shape": [-1 if size is None else size for size in spec.shape],
    }
