"""Connections to REST: one whose first header does not arrive in time is closed.

aiohttp waits for it without end, and each such connection keeps a file descriptor.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from aiohttp import web

from serving.server.ports import cannot_listen

_END = b"\r\n\r\n"


async def listen(
    runner: web.AppRunner, host: str, port: int, header_seconds: float, tls: ssl.SSLContext | None = None
) -> asyncio.Server:
    """Listen for the requests of an application, over TLS if a context is given.

    Raises:
      ServingError: the port is in use.
    """

    def connection() -> asyncio.Protocol:
        return FirstHeader(cast(asyncio.Protocol, runner.server()), header_seconds)  # type: ignore[misc]

    try:
        return await asyncio.get_running_loop().create_server(
            connection, host, port, ssl=tls, ssl_handshake_timeout=header_seconds if tls else None
        )
    except OSError as error:
        await runner.cleanup()
        raise cannot_listen(host, port, "it is in use") from error


class FirstHeader(asyncio.Protocol):
    """Passes a connection on to a handler, and closes it if the end of a header does not come in time."""

    def __init__(self, handler: asyncio.Protocol, seconds: float):
        self._handler = handler
        self._seconds = seconds
        self._end = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock."""
        self._timer = asyncio.get_running_loop().call_later(self._seconds, transport.close)
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Stop the clock at the first end of a header, wherever it is cut."""
        if self._timer:
            seen = self._end + data
            if _END in seen:
                self._stop()
            self._end = seen[-len(_END) + 1 :]
        self._handler.data_received(data)

    def connection_lost(self, exception: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        self._handler.connection_lost(exception)

    def eof_received(self) -> bool | None:
        """Pass on."""
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        """Pass on."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Pass on."""
        self._handler.resume_writing()

    def _stop(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
