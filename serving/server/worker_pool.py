"""Where models run: a few threads, a bounded queue before them, and a time limit on every request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import grpc

from serving.wire.errors import RequestError

T = TypeVar("T")


class WorkerPool:
    """Runs work of both protocols; belongs to one event loop."""

    def __init__(self, *, workers: int, max_waiting: int, seconds: float):
        """Sets the bounds.

        Args:
          workers: calls into TensorFlow at a time; each of them uses all cores by itself.
          max_waiting: requests admitted beyond those; one more is refused.
          seconds: how long an admitted request may take, waiting included.
        """
        self._capacity = workers + max_waiting
        self._admitted = 0
        self._seconds = seconds
        self._idle = asyncio.Semaphore(workers)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="model")

    @contextlib.contextmanager
    def admission(self) -> Iterator[None]:
        """A place in the queue, to be taken before a request's body is read.

        Raises:
          RequestError: RESOURCE_EXHAUSTED where none is left.
        """
        if self._admitted >= self._capacity:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the server is busy: {self._admitted} requests are waiting, allowed are {self._capacity}",
            )
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def run(self, work: Callable[[], T], seconds: float | None = None) -> T:
        """The result of `work`, called in a worker thread.

        Raises:
          RequestError: DEADLINE_EXCEEDED after the pool's time limit or `seconds`, whichever is less;
            work that has begun by then goes on and keeps its thread, since TensorFlow cannot be stopped.
        """
        limit = self._seconds if seconds is None else min(seconds, self._seconds)
        try:
            return await asyncio.wait_for(self._run(work), limit)
        except asyncio.TimeoutError as error:
            message = f"no answer within {limit:.0f} seconds"
            raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, message) from error

    def close(self) -> None:
        """Lets running work end and starts no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        await self._idle.acquire()
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        running.add_done_callback(self._release)
        # Shielded, for the thread stays busy when the one who asked is gone.
        return await asyncio.shield(running)

    def _release(self, finished: asyncio.Future) -> None:
        self._idle.release()
        if not finished.cancelled():
            finished.exception()  # looked at, so that asyncio does not report it where nobody waits
