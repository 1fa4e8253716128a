"""A process that reads and writes large JSON.

Python's `json` holds the interpreter's lock from a text's first byte to its last: 54 MiB of numbers kept a
server from answering anybody for 1.4 s. In another process they keep nobody.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import grpc
import numpy as np

from serving.server.scheduler import Scheduler
from serving.wire.errors import RequestError

T = TypeVar("T")

# Of a text, and of numbers that become one, some 25 ms of work.
LARGE_TEXT, LARGE_ARRAYS = 2**20, 2**18


class JsonProcess:
    """Runs functions of `serving.wire`: large work in a process, one after the other, the rest in threads.

    The process starts with the first large work.
    """

    def __init__(self, scheduler: Scheduler, seconds: float):
        """Set whose threads are used, and the time limit of a call."""
        self._scheduler = scheduler
        self._seconds = seconds
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    async def run(self, function: Callable[..., T], *arguments: object, large: bool) -> T:
        """Call a function.

        Raises:
          RequestError: what the function raises; DEADLINE_EXCEEDED after the time limit; RESOURCE_EXHAUSTED
            if the process ends, as when the system ends it because memory is short.
        """
        if not large:
            return await self._scheduler.in_thread(functools.partial(function, *arguments))
        if self._pool is None:
            # Not forked: TensorFlow has threads.
            spawn = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(1, spawn)
        pool = self._pool
        try:
            task = asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
            return await asyncio.wait_for(task, self._seconds)
        except asyncio.TimeoutError as error:
            # It would keep all that come after.
            self.close()
            message = f"not read within {self._seconds:.0f} seconds"
            raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, message) from error
        except BrokenProcessPool as error:
            if self._pool is pool:
                self.close()
            message = "the process that reads large JSON has ended; ask again, or over gRPC"
            raise RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, message) from error

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._pool:
            # It has no other way to end a call.
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def is_large(outputs: Mapping[str, np.ndarray]) -> bool:
    """Whether the numbers of an answer make a large text."""
    return sum(array.nbytes for array in outputs.values() if array.dtype != np.object_) >= LARGE_ARRAYS
