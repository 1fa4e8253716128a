"""Clients for asyncio: many requests in flight, and one that is cancelled ends on the server too.

from serving.client import aio, queries

async with aio.connect("grpc://localhost:8500") as client:
    async for images, tokens in aio.stream(client, queries.generation([3] * 64, batch_size=4)):
        ...
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from serving.client import client as sync
from serving.client.client import Array, Client, Version
from serving.client.connect import TIMEOUT_SECONDS, is_grpc
from serving.client.credentials import NONE, Credentials
from serving.client.query import Query, joined
from serving.export.metadata import Metadata
from serving.wire.errors import ClientError

# Requests of one query at the same time: while one is answered the next waits on the server.
IN_FLIGHT = 2
# Of a client that asks in threads, at the same time.
_THREADS = 16

Answer = TypeVar("Answer")


class AsyncClient(abc.ABC):
    """`serving.client.client.Client` for asyncio; an asynchronous context manager."""

    @abc.abstractmethod
    async def predict(self, model: str, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `Client.predict`; a cancelled call ends on the server too."""

    async def metadata(self, model: str) -> Metadata:
        """As `Client.metadata`."""
        try:
            answer = await self.predict(model, "metadata", sync.METADATA_INPUTS)
        except ClientError as error:
            if not sync.has_no_rows(error):
                raise
            answer = await self.predict(model, "metadata", {})
        return sync.metadata_of(model, answer)

    async def close(self) -> None:  # noqa: B027 - not every client has a connection
        """Close the connection, if there is one."""

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class ThreadedClient(AsyncClient):
    """Asks a synchronous client in threads, such as that of a folder. A cancelled call runs on."""

    def __init__(self, client: Client):
        self._client = client
        self._free = asyncio.Semaphore(_THREADS)

    async def predict(self, model: str, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `AsyncClient.predict`."""
        return await self._run(self._client.predict, model, signature, inputs)

    async def metadata(self, model: str) -> Metadata:
        """As `Client.metadata`."""
        return await self._run(self._client.metadata, model)

    async def close(self) -> None:
        """Close the connection, if there is one; what still runs ends by itself."""
        self._client.close()

    async def _run(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        # Not in the threads of the loop or of `concurrent.futures`: a loop or Python would not end before
        # them, and a request may take minutes.
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()

        def settle(settled: Callable[[Any], None], value: Any) -> None:
            if not answer.done():
                settled(value)

        def work() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                try:
                    loop.call_soon_threadsafe(settle, answer.set_result, function(*arguments))
                except Exception as error:
                    loop.call_soon_threadsafe(settle, answer.set_exception, error)

        async with self._free:
            threading.Thread(target=work, daemon=True).start()
            return await answer


def connect(
    endpoint: str,
    *,
    version: Version = None,
    timeout: float = TIMEOUT_SECONDS,
    credentials: Credentials = NONE,
) -> AsyncClient:
    """Create the client of a server; arguments and errors are those of `serving.client.connect`.

    Over gRPC call it where an event loop runs.
    """
    sync.check_version(version)
    if is_grpc(endpoint):
        from serving.client.grpc import AsyncGrpcClient

        return AsyncGrpcClient(endpoint, timeout, credentials, version)
    from serving.client.async_rest import AsyncRestClient

    return AsyncRestClient(endpoint, timeout, credentials, version)


async def run(client: AsyncClient, query: Query[Answer], *, in_flight: int = IN_FLIGHT) -> Answer:
    """Ask for all rows; raises ClientError as `Client.predict` does."""
    return query.read(joined([answer async for answer in _answers(client, query, in_flight)]))


async def stream(
    client: AsyncClient, query: Query[Answer], *, in_flight: int = IN_FLIGHT
) -> AsyncGenerator[Answer, None]:
    """Yield the answer of each batch, in order; the requests that are left end with the iterator."""
    # Closed with this one: left to the garbage collector, its requests would run on for a while.
    async with contextlib.aclosing(_answers(client, query, in_flight)) as answers:
        async for answer in answers:
            yield query.read(answer)


async def _answers(
    client: AsyncClient, query: Query[Answer], in_flight: int
) -> AsyncGenerator[dict[str, Array], None]:
    batches = query.batches()
    running: deque[asyncio.Task[dict[str, Array]]] = deque()
    try:
        while True:
            while len(running) < in_flight and (batch := next(batches, None)) is not None:
                running.append(asyncio.create_task(client.predict(query.model, query.signature, batch)))
            if not running:
                return
            yield query.checked(await running.popleft())
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
