"""The embedded model server: serves a run's folder over TF Serving's protocols.

It replaces the official tensorflow/serving on machines without a container engine; both read the same
folder and return the same answers.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

import grpc
from aiohttp import web

from serving.server import open_inference_grpc
from serving.server.access import ANYONE, Access, TokenInterceptor
from serving.server.backend import Backend
from serving.server.batching import Batching
from serving.server.grpc import add_services
from serving.server.health import Health
from serving.server.listener import listen
from serving.server.model import Retries, VersionStatus
from serving.server.models import ModelRepository
from serving.server.observation import Observer
from serving.server.ports import bracketed, cannot_listen, check_free
from serving.server.rest import application
from serving.server.scheduler import Scheduler
from serving.wire.errors import one_line

# Only this machine may connect unless the user sets another address.
HOST = "127.0.0.1"
# Seconds that the rest of a refused body is read for, so that its sender sees the answer.
LINGERING = 1.0
# Seconds for which a connection to REST may be idle between two requests.
KEEP_ALIVE = 60.0
MAX_RPCS = 1024


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
      max_message_bytes: of a request, and of an answer over gRPC.
      max_image_pixels: of an image; it takes 15 bytes for each while it is decoded.
      max_waiting_bytes: of all messages that are being read, and of all inputs that wait for a model.
      request_seconds: from the last byte of a request to its answer.
      header_seconds: of a connection to REST, until its first header is there.
      body_seconds: to read a body over REST.
      grace_seconds: for running requests when the server ends.
      batching: how rows of different requests are put together.
    """

    max_message_bytes: int = 64 * 2**20
    max_image_pixels: int = 2**25
    max_waiting_bytes: int = 256 * 2**20
    request_seconds: float = 120.0
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    grace_seconds: float = 15.0
    batching: Batching = field(default_factory=Batching)


@dataclass(frozen=True)
class Options:
    """How a server listens and what it tells.

    Attributes:
      host: the address to listen on.
      port: of gRPC; 0 picks a free one.
      rest_api_port: of REST; 0 picks a free one.
      poll_seconds: time between two looks for new versions.
      retries: of versions that do not load.
      limits: queue, sizes and times.
      access: who may ask.
      request_log: where a line for each request goes; None for nowhere.
      grpc_arguments: of gRPC's channels by name, over the server's own.
    """

    host: str = HOST
    port: int = 8500
    rest_api_port: int = 8501
    poll_seconds: float = 2.0
    retries: Retries = field(default_factory=Retries)
    limits: Limits = Limits()
    access: Access = ANYONE
    request_log: TextIO | None = None
    grpc_arguments: tuple[tuple[str, int | str], ...] = ()


@dataclass(frozen=True)
class Endpoints:
    """Where a running server listens."""

    grpc: str
    http: str


def serve(
    base: str, options: Options = Options(), *, on_ready: Callable[[Endpoints], None] | None = None
) -> None:
    """Serve every model below `base` until SIGTERM or SIGINT; call it from the main thread.

    Args:
      base: holds `<model>/<integer version>/saved_model.pb`.
      options: how.
      on_ready: called once, when both ports answer.

    Raises:
      ServingError: no model loads, or a port is in use.
    """

    async def until_signalled() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await _serve(base, options, on_ready or _ignore, stop)

    asyncio.run(until_signalled())


@contextlib.contextmanager
def background_server(base: str, options: Options = Options()) -> Iterator[Endpoints]:
    """Run the server in a thread until the context ends, on free ports of this machine."""
    ready: concurrent.futures.Future[tuple[Endpoints, Callable[[], object]]] = concurrent.futures.Future()
    options = dataclasses.replace(options, host=HOST, port=0, rest_api_port=0)

    async def until_left() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def tell(endpoints: Endpoints) -> None:
            ready.set_result((endpoints, lambda: loop.call_soon_threadsafe(stop.set)))

        await _serve(base, options, tell, stop)

    def run() -> None:
        try:
            asyncio.run(until_left())
        except Exception as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        endpoints, stop = ready.result()
        try:
            yield endpoints
        finally:
            stop()
    finally:
        thread.join()


async def _serve(
    base: str, options: Options, on_ready: Callable[[Endpoints], None], stop: asyncio.Event
) -> None:
    limits = options.limits
    for wanted in (options.port, options.rest_api_port):
        check_free(options.host, wanted)
    repository = await asyncio.to_thread(ModelRepository, base, options.retries)
    observer = Observer(options.request_log)
    scheduler = Scheduler(
        limits.batching, observer, max_waiting_bytes=limits.max_waiting_bytes, seconds=limits.request_seconds
    )
    backend = Backend(repository, scheduler, observer, limits.max_image_pixels)
    closers: list[Callable[[], Awaitable[None]]] = []
    try:
        grpc_endpoint, close = await _start_grpc(backend, options)
        closers.append(close)
        http_endpoint, close = await _start_rest(backend, options)
        closers.append(close)
        endpoints = Endpoints(grpc_endpoint, http_endpoint)
        for status in repository.first_news:
            _report(status, endpoints)
        on_ready(endpoints)
        watcher = asyncio.create_task(_watch(repository, options.poll_seconds, endpoints))
        await stop.wait()
        watcher.cancel()
    finally:
        # aiohttp waits for its grace, and as long again for what it has cancelled: a model ends only by this.
        asyncio.get_running_loop().call_later(limits.grace_seconds, scheduler.close)
        # Concurrently, so that neither protocol accepts requests while the other one shuts down.
        await asyncio.gather(*(close() for close in closers))
        scheduler.close()


async def _start_grpc(backend: Backend, options: Options) -> tuple[str, Callable[[], Awaitable[None]]]:
    limits = options.limits
    own: dict[str, int | str] = {
        "grpc.max_receive_message_length": limits.max_message_bytes,
        "grpc.max_send_message_length": limits.max_message_bytes,
        # Otherwise two servers can share a port, and each gets half of the requests.
        "grpc.so_reuseport": 0,
        "grpc.server_handshake_timeout_ms": round(1000 * limits.header_seconds),
    }
    server = grpc.aio.server(
        # Each holds its message before it is counted; one more is RESOURCE_EXHAUSTED.
        maximum_concurrent_rpcs=MAX_RPCS,
        interceptors=[TokenInterceptor(options.access)],
        options=list({**own, **dict(options.grpc_arguments)}.items()),
    )
    health = Health(
        server, add_services(server, backend), unlisted=[open_inference_grpc.add_service_to(server, backend)]
    )
    address = f"{bracketed(options.host)}:{options.port}"
    tls = options.access.tls
    try:
        bound = server.add_secure_port(address, tls.grpc) if tls else server.add_insecure_port(address)
    except RuntimeError as error:
        raise cannot_listen(options.host, options.port, "it is in use") from error
    await server.start()
    await health.serving()

    async def close() -> None:
        await health.ending()
        await server.stop(limits.grace_seconds)

    return f"{'grpcs' if tls else 'grpc'}://{bracketed(options.host)}:{bound}", close


async def _start_rest(backend: Backend, options: Options) -> tuple[str, Callable[[], Awaitable[None]]]:
    limits = options.limits
    app = application(
        backend,
        access=options.access,
        max_body_bytes=limits.max_message_bytes,
        body_seconds=limits.body_seconds,
        request_seconds=limits.request_seconds,
    )
    # With cancellation, so that what a client that has left had asked for does not run.
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=limits.grace_seconds,
        handler_cancellation=True,
        lingering_time=LINGERING,
        keepalive_timeout=KEEP_ALIVE,
    )
    await runner.setup()
    tls = options.access.tls
    listener = await listen(
        runner, options.host, options.rest_api_port, limits.header_seconds, tls.http if tls else None
    )

    async def close() -> None:
        listener.close()
        await runner.cleanup()

    port = listener.sockets[0].getsockname()[1]
    return f"{'https' if tls else 'http'}://{bracketed(options.host)}:{port}", close


async def _watch(repository: ModelRepository, poll_seconds: float, endpoints: Endpoints) -> None:
    while True:
        await asyncio.sleep(poll_seconds)
        try:
            for status in await asyncio.to_thread(repository.refresh):
                _report(status, endpoints)
        # The folder may be unavailable for a while; loaded versions keep serving.
        except Exception as error:
            print(f"cannot look for new versions: {one_line(error)}", file=sys.stderr, flush=True)


def _report(status: VersionStatus, endpoints: Endpoints) -> None:
    if status.error:
        print(status.error.message, file=sys.stderr, flush=True)
    else:
        where = f"{endpoints.grpc} {endpoints.http}"
        print(f"serving {status.model} version {status.version} at {where}", flush=True)


def _ignore(endpoints: Endpoints) -> None:
    del endpoints
