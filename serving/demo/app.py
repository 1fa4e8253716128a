"""The demo's web server: one page, and the requests that it makes.

| path | what |
|---|---|
| `/`, `/page.css`, `/page.js` | the page |
| `/api/models` | what is served: sizes and classes |
| `/api/generate`, `/api/complete` | images as they are drawn, a line of JSON each |
| `/api/reconstruct` | an image as a model sees it, its tokens, and what they keep of it |
| `/api/decode` | images of tokens |
| `/api/neighbors` | the codes nearest to one |
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import math
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, TypeVar

import numpy as np
import pydantic
from aiohttp import web
from aiohttp.typedefs import Handler

from serving.cli import files
from serving.client import aio, queries
from serving.client.client import Array
from serving.client.query import Query
from serving.demo.requests import Complete, Decode, Draw, Neighbors, Reconstruct
from serving.export.metadata import Metadata
from serving.export.standard_image import UnreadableImage, fitted
from serving.wire.errors import ClientError, printable

# A photograph of a camera, in base64.
MAX_BODY_BYTES = 32 * 2**20
# Rows a request: pictures should arrive one after the other, and few together are drawn faster than alone.
ROWS = 4
# A photograph with more is made smaller first: a completion sends it once a row.
MAX_PIXELS = 2**22
# Photographs that are decoded at the same time.
_DECODED = 2
_PAGE = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Body = TypeVar("Body", bound=pydantic.BaseModel)


def application(client: aio.AsyncClient, tokenizers: Sequence[str], *, local: bool) -> web.Application:
    """Build the web application.

    Args:
      client: of the models.
      tokenizers: their names, which the page shows side by side.
      local: whether only this machine may ask; then no other host name is answered, so that no page of the
        web can reach it under a name of its own (DNS rebinding).
    """
    app = web.Application(
        client_max_size=MAX_BODY_BYTES, middlewares=[_one_line_errors, *([_only_local] if local else [])]
    )
    api = _Api(client, tuple(tokenizers))
    for name, kind in _PAGE.items():
        app.router.add_get("/" if name == "page.html" else f"/{name}", _file(name, kind))
    app.router.add_get("/api/models", api.models)
    for path in (api.generate, api.complete, api.reconstruct, api.decode, api.neighbors):
        app.router.add_post(f"/api/{path.__name__}", path)
    app.on_response_prepare.append(_add_headers)
    return app


class _Api:
    def __init__(self, client: aio.AsyncClient, tokenizers: tuple[str, ...]):
        self._client = client
        self._tokenizers = tokenizers
        self._decoding = asyncio.Semaphore(_DECODED)

    async def models(self, request: web.Request) -> web.Response:
        del request
        found = [await self._tokenizer(name) for name in self._tokenizers]
        try:
            generator: dict[str, Any] | str = _described(await self._client.metadata(queries.GENERATOR))
        except ClientError as error:
            generator = str(error)
        return web.json_response({"tokenizers": found, "generator": generator})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        asked = await _body(request, Draw)
        return await self._drawn(
            request, queries.generation(asked.class_ids, asked.sampling, batch_size=ROWS)
        )

    async def complete(self, request: web.Request) -> web.StreamResponse:
        asked = await _body(request, Complete)
        most = (await self._client.metadata(queries.GENERATOR)).max_image_pixels

        def query() -> Query[tuple[Array, Array]]:
            images = [_fitted(asked.content, most)] * asked.count
            classes = [asked.class_id] * asked.count
            return queries.completion(images, classes, asked.kept_rows, asked.sampling, batch_size=ROWS)

        return await self._drawn(request, await self._made(query))

    async def reconstruct(self, request: web.Request) -> web.Response:
        asked = await _body(request, Reconstruct)
        metadata = await self._client.metadata(self._known(asked.tokenizer))
        content = await self._made(lambda: _fitted(asked.content, metadata.max_image_pixels))
        query = await self._made(lambda: queries.encoding([content], model=asked.tokenizer))
        tokens = await aio.run(self._client, query)
        (image,) = await aio.run(self._client, queries.decoding(tokens, model=asked.tokenizer))
        seen = await self._made(lambda: files.cropped(content, metadata.image_size, metadata.ground))
        error = float(np.mean(np.square(seen.astype(np.float64) - image)))
        return web.json_response(
            {
                "seen": _png(seen),
                "image": _png(image),
                "tokens": tokens[0].tolist(),
                # No number in JSON is infinite.
                "psnr": 10 * math.log10(255**2 / error) if error else None,
            }
        )

    async def decode(self, request: web.Request) -> web.Response:
        asked = await _body(request, Decode)
        query = queries.decoding(np.array(asked.tokens, np.int32), model=self._known(asked.tokenizer))
        images = await aio.run(self._client, query)
        return web.json_response({"images": [_png(image) for image in images]})

    async def neighbors(self, request: web.Request) -> web.Response:
        asked = await _body(request, Neighbors)
        answer = await self._client.predict(
            self._known(asked.tokenizer), "neighbors", {"token": np.array([asked.token], np.int32)}
        )
        return web.json_response(
            {"tokens": answer["neighbors"][0].tolist(), "distances": answer["distances"][0].tolist()}
        )

    async def _tokenizer(self, name: str) -> dict[str, Any]:
        try:
            described = _described(await self._client.metadata(name))
        except ClientError as error:
            return {"name": name, "error": str(error)}
        try:
            await self._client.predict(name, "neighbors", {"token": np.zeros(1, np.int32)})
            described["neighbors"] = True
        except ClientError:
            described["neighbors"] = False
        return {"name": name, **described}

    def _known(self, tokenizer: str) -> str:
        if tokenizer not in self._tokenizers:
            raise ValueError(f"tokenizer must be one of {', '.join(self._tokenizers)}, got {tokenizer!r}")
        return tokenizer

    async def _made(self, make: Callable[[], Any]) -> Any:
        """Do in a thread what decodes an image of a client."""
        async with self._decoding:
            return await asyncio.to_thread(make)

    async def _drawn(self, request: web.Request, query: Query[tuple[Array, Array]]) -> web.StreamResponse:
        """Answer with a line of JSON for each image; an error afterwards is the last line."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            async for images, _ in aio.stream(self._client, query):
                for image in images:
                    await response.write(json.dumps({"image": _png(image)}).encode() + b"\n")
        except ClientError as error:
            await response.write(json.dumps({"error": str(error)}).encode() + b"\n")
        await response.write_eof()
        return response


async def _body(request: web.Request, kind: type[Body]) -> Body:
    # A page of another site may send everything but JSON without being asked by the browser first.
    if request.content_type != "application/json":
        raise ValueError(f"Content-Type must be application/json, got {request.content_type}")
    return kind.model_validate_json(await request.read())


def _fitted(content: bytes, most: int) -> bytes:
    try:
        return fitted(content, min(MAX_PIXELS, most))
    except UnreadableImage as error:
        raise ValueError(f"image {error}") from error


def _described(metadata: Metadata) -> dict[str, Any]:
    return {
        "preset": metadata.preset,
        "image_size": metadata.image_size,
        "side": math.isqrt(metadata.tokens),
        "codebook_size": metadata.codebook_size,
        "classes": list(metadata.class_names),
    }


def _png(pixels: Array) -> str:
    return base64.b64encode(files.png(pixels)).decode()


def _file(name: str, kind: str) -> Handler:
    content = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")

    async def answer(request: web.Request) -> web.Response:
        del request
        return web.Response(text=content, content_type=kind)

    return answer


@web.middleware
async def _one_line_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "body"
        return _refusal(f"{where}: {first['msg']}")
    except (ValueError, UnreadableImage, ClientError) as error:
        return _refusal(str(error))


def _refusal(message: str) -> web.Response:
    return web.json_response({"error": printable(message)}, status=400)


@web.middleware
async def _only_local(request: web.Request, handler: Handler) -> web.StreamResponse:
    name = request.host.rpartition(":")[0] if not request.host.endswith("]") else request.host
    name = (name or request.host).strip("[]")
    if name != "localhost" and not _is_address(name):
        raise web.HTTPForbidden(text=f"host must be localhost, got {printable(name)}\n")
    return await handler(request)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    del request
    response.headers.update(_HEADERS)
