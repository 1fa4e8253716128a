"""Threads that run models, with a bounded queue and a time limit on every request."""

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
    """Runs the requests of both protocols; belongs to one event loop."""

    def __init__(self, *, workers: int, max_waiting: int, seconds: float):
        """Set the limits.

        Args:
          workers: concurrent calls into TensorFlow, each of which already uses all cores.
          max_waiting: requests admitted beyond those; one more is refused.
          seconds: time limit of an admitted request, waiting included.
        """
        self._capacity = workers + max_waiting
        self._admitted = 0
        self._seconds = seconds
        self._idle = asyncio.Semaphore(workers)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="model")

    @contextlib.contextmanager
    def admission(self) -> Iterator[None]:
        """Hold a place in the queue; to be entered before a request's body is read.

        Raises:
          RequestError: RESOURCE_EXHAUSTED if the queue is full.
        """
        if self._admitted >= self._capacity:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the server is busy: {self._admitted} of at most {self._capacity} requests are waiting",
            )
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def run(self, work: Callable[[], T], seconds: float | None = None) -> T:
        """Call `work` in a worker thread and return its result.

        Raises:
          RequestError: DEADLINE_EXCEEDED after the pool's time limit or `seconds`, whichever is less;
            work that has started continues in its thread, since TensorFlow calls cannot be cancelled.
        """
        limit = self._seconds if seconds is None else min(seconds, self._seconds)
        try:
            return await asyncio.wait_for(self._run(work), limit)
        except asyncio.TimeoutError as error:
            message = f"no answer within {limit:.0f} seconds"
            raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, message) from error

    def close(self) -> None:
        """Cancel waiting work; running work finishes."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        await self._idle.acquire()
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        running.add_done_callback(self._release)
        # Shielded: the thread stays busy after its request is cancelled.
        return await asyncio.shield(running)

    def _release(self, finished: asyncio.Future) -> None:
        self._idle.release()
        if not finished.cancelled():
            finished.exception()  # retrieved, so that asyncio does not log it if nobody awaits it
