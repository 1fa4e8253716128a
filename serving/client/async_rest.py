"""The REST client for asyncio: a call that is cancelled closes its connection, and so ends on the server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import aiohttp

from serving.client.aio import AsyncClient
from serving.client.client import ATTEMPTS, Array, Version
from serving.client.credentials import Credentials
from serving.client.rest import BUSY, MAX_ANSWER_BYTES, RestInterface, backoff


class AsyncRestClient(AsyncClient):
    """`serving.client.rest.RestClient` for asyncio."""

    def __init__(self, endpoint: str, timeout: float, credentials: Credentials, version: Version):
        self._interface = RestInterface(endpoint, version, timeout)
        self._credentials = credentials
        self._signatures: dict[str, dict[str, Any]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def predict(self, model: str, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `AsyncClient.predict`."""
        interface = self._interface
        if model not in self._signatures:
            answer = interface.parsed(await self._ask(model, "/metadata"))
            self._signatures[model] = interface.signatures(model, answer)
        dtypes = interface.dtypes(model, signature, self._signatures[model])
        # In threads, since JSON of megabytes would keep the loop.
        body = await asyncio.to_thread(interface.body, signature, inputs)
        content = await self._ask(model, ":predict", body)

        def read() -> dict[str, Array]:
            return interface.outputs(model, signature, dtypes, interface.parsed(content))

        return await asyncio.to_thread(read)

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def _ask(self, model: str, what: str, body: bytes | None = None) -> bytes:
        try:
            return await asyncio.wait_for(
                self._answer(self._interface.url(model, what), body), self._interface.timeout
            )
        except asyncio.TimeoutError as error:
            raise self._interface.silence() from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._interface.absence() from error

    async def _answer(self, url: str, body: bytes | None) -> bytes:
        """The body of an answer; a server that is busy or restarts is asked again."""
        for attempt in itertools.count(1):
            last = attempt == ATTEMPTS
            try:
                # Credentials must not go to where a redirect may lead.
                async with self._open().request(
                    "GET" if body is None else "POST", url, data=body, allow_redirects=False
                ) as response:
                    content = await _first(response.content, MAX_ANSWER_BYTES + 1)
                    if response.status == 200:
                        return content
                    if last or response.status not in BUSY:
                        raise self._interface.refusal(response.status, response.reason or "", content)
            except aiohttp.ClientConnectorError as error:
                if last or not isinstance(error.os_error, ConnectionRefusedError):
                    raise
            await asyncio.sleep(backoff(attempt))
        raise AssertionError  # the loop ends only by a return or an error

    def _open(self) -> aiohttp.ClientSession:
        # Where an event loop runs, as aiohttp wants it.
        if self._session is None:
            tls = self._credentials.http if self._interface.endpoint.startswith("https://") else True
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=tls),
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"Content-Type": "application/json", **self._credentials.headers},
            )
        return self._session


async def _first(content: aiohttp.StreamReader, size: int) -> bytes:
    """At most `size` bytes of a body."""
    parts, left = [], size
    while left and (part := await content.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
