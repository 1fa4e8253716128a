"""Bodies of requests over REST, read within bounds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from serving.server.scheduler import Scheduler


class Bodies:
    """Reads bodies of requests within a time, and within a number of bytes for all messages.

    Only what has arrived counts: a connection that announces much and sends nothing takes nothing from
    others.
    """

    def __init__(self, scheduler: Scheduler, max_bytes: int, seconds: float):
        self._scheduler = scheduler
        self._max_bytes = max_bytes
        self._seconds = seconds

    @contextlib.asynccontextmanager
    async def read(self, request: web.Request) -> AsyncIterator[bytes]:
        """Yield a body, which counts until the context ends.

        Raises:
          HTTPRequestTimeout: it takes too long.
          HTTPRequestEntityTooLarge: it is too large, or says so.
          RequestError: RESOURCE_EXHAUSTED if the bodies of all requests are.
        """
        if (request.content_length or 0) > self._max_bytes:
            raise web.HTTPRequestEntityTooLarge(self._max_bytes, request.content_length or 0)
        parts: list[bytes] = []
        try:
            try:
                await asyncio.wait_for(self._collect(request, parts), self._seconds)
            except asyncio.TimeoutError as error:
                raise web.HTTPRequestTimeout from error
            yield b"".join(parts)
        finally:
            self._scheduler.release(sum(map(len, parts)))

    async def _collect(self, request: web.Request, parts: list[bytes]) -> None:
        size = 0
        async for part in request.content.iter_any():
            size += len(part)
            if size > self._max_bytes:
                raise web.HTTPRequestEntityTooLarge(self._max_bytes, size)
            self._scheduler.hold(len(part))
            parts.append(part)
