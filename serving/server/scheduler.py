"""The queue of requests and the threads that run models; belongs to one event loop."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
from tensorflow.python.eager.cancellation import CancellationManager

from serving.server import batching
from serving.server.batching import Arrays, Batching, Call
from serving.server.cancellation import cancelled_by
from serving.server.observation import Observer, Seen
from serving.wire.errors import RequestError

T = TypeVar("T")

# Seconds that a batch waits for the callers of the last one: who has been answered often asks again, and
# without the wait half of the clients would always find the other half's batch running.
RETURN = 0.005

# Threads that read and write large messages, so that the event loop goes on meanwhile.
CODEC_THREADS = 2


@dataclass(eq=False)
class _Waiting:
    """A call that waits for its answer."""

    call: Call
    answer: asyncio.Future[Arrays]
    bytes: int
    seen: Seen
    since: float = field(default_factory=time.monotonic)
    # When its batch began.
    began: float | None = None

    def note(self) -> None:
        """Tell how long it waited, and how long its batch has run."""
        if self.began is not None:
            self.seen.queue_seconds = self.began - self.since
            self.seen.run_seconds = time.monotonic() - self.began


@dataclass(eq=False)
class _Batch:
    """Calls that run together, and what cancels the run when nobody waits for it any more."""

    calls: list[_Waiting]
    cancellation: CancellationManager = field(default_factory=CancellationManager)

    def cancel_if_abandoned(self) -> None:
        if all(one.answer.done() for one in self.calls):
            self.cancellation.start_cancel()


class Scheduler:
    """Runs the requests of both protocols in batches."""

    def __init__(self, rules: Batching, observer: Observer, *, max_waiting_bytes: int, seconds: float):
        """Set the limits.

        Args:
          rules: of batches.
          observer: is told of each batch.
          max_waiting_bytes: of all inputs that wait, and as many of all messages that are being read.
          seconds: time limit of a request, waiting included.
        """
        self._rules = rules
        self._observer = observer
        self._max_bytes = max_waiting_bytes
        self._seconds = seconds
        self._queue: deque[_Waiting] = deque()
        self._running: set[_Batch] = set()
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        # By key: rows that waited or were answered when its last batch ended, and until when they may return.
        self._expected: dict[tuple[object, ...], tuple[int, float]] = {}
        # Bytes of messages that are being read or converted.
        self._converting = 0
        self._models = ThreadPoolExecutor(rules.num_batch_threads, thread_name_prefix="model")
        self._codec = ThreadPoolExecutor(CODEC_THREADS, thread_name_prefix="codec")

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Read or write a message outside of the event loop.

        Raises:
          RequestError: DEADLINE_EXCEEDED after the scheduler's time limit.
        """
        task = asyncio.get_running_loop().run_in_executor(self._codec, work)
        try:
            return await asyncio.wait_for(task, self._seconds)
        except asyncio.TimeoutError as error:
            message = f"not read within {self._seconds:.0f} seconds"
            raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, message) from error

    def hold(self, size: int) -> None:
        """Count bytes of a message that is being read or converted; `release` them afterwards.

        Raises:
          RequestError: RESOURCE_EXHAUSTED if those of all messages are too many; nothing is counted then.
        """
        if self._converting and self._converting + size > self._max_bytes:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the server is busy: it reads {self._converting} bytes of at most {self._max_bytes}",
            )
        self._converting += size

    def release(self, size: int) -> None:
        """Forget bytes that were held."""
        self._converting -= size

    async def run(self, call: Call, seen: Seen, seconds: float | None = None) -> Arrays:
        """Answer a call, and note in `seen` how long it waited and ran.

        What nobody waits for any more is dropped: a waiting call at once, a running batch as soon as
        TensorFlow comes to its next operation, once all of its callers have left.

        Raises:
          RequestError: RESOURCE_EXHAUSTED if too much waits; DEADLINE_EXCEEDED after the scheduler's time
            limit or `seconds`, whichever is less; or what the model raises.
        """
        seen.rows = call.rows
        waiting = _Waiting(call, asyncio.get_running_loop().create_future(), call.bytes, seen)
        self._check_room(waiting)
        self._queue.append(waiting)
        self._bytes += waiting.bytes
        self._observer.waiting(self._waiting_rows)
        self._dispatch()
        limit = self._seconds if seconds is None else min(seconds, self._seconds)
        try:
            return await asyncio.wait_for(waiting.answer, limit)
        except asyncio.TimeoutError as error:
            message = f"no answer within {limit:.0f} seconds"
            raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, message) from error
        finally:
            waiting.note()
            self._leave(waiting)

    def close(self) -> None:
        """Drop what waits, and cancel what runs."""
        for waiting in list(self._queue):
            waiting.answer.cancel()
        for batch in self._running:
            batch.cancellation.start_cancel()
        for pool in (self._models, self._codec):
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def _waiting_rows(self) -> int:
        return sum(one.call.rows for one in self._queue)

    def _check_room(self, new: _Waiting) -> None:
        rows, most = self._waiting_rows, self._rules.max_waiting_rows
        if self._queue and rows + new.call.rows > most:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the server is busy: {rows} rows of at most {most} are waiting",
            )
        if self._queue and self._bytes + new.bytes > self._max_bytes:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the server is busy: {self._bytes} bytes of at most {self._max_bytes} are waiting",
            )

    def _leave(self, waiting: _Waiting) -> None:
        if waiting in self._queue:
            self._queue.remove(waiting)
            self._bytes -= waiting.bytes
            self._observer.waiting(self._waiting_rows)
        if not waiting.answer.done():
            waiting.answer.cancel()
        for batch in self._running:
            if waiting in batch.calls:
                batch.cancel_if_abandoned()

    def _dispatch(self) -> None:
        """Start batches while a thread is idle and one is due."""
        while self._queue and len(self._running) < self._rules.num_batch_threads:
            chosen = self._due()
            if not chosen:
                return
            for one in chosen:
                self._queue.remove(one)
                self._bytes -= one.bytes
                one.began = time.monotonic()
            self._observer.batch(sum(one.call.rows for one in chosen))
            self._observer.waiting(self._waiting_rows)
            batch = _Batch(chosen)
            self._running.add(batch)
            task = asyncio.get_running_loop().run_in_executor(self._models, self._answers, batch)
            task.add_done_callback(functools.partial(self._finished, batch))

    def _due(self) -> list[_Waiting]:
        """Calls that go together and fill a batch or have waited long enough, the oldest first."""
        waits = []
        tried: set[tuple[object, ...]] = set()
        for first in self._queue:
            if not self._rules.enabled or not first.call.signature.has_rows:
                return [first]
            if first.call.key in tried:
                continue
            tried.add(first.call.key)
            chosen, left = self._batch_of(first)
            if left <= 0:
                return chosen
            waits.append(left)
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(min(waits), self._dispatch)
        return []

    def _batch_of(self, first: _Waiting) -> tuple[list[_Waiting], float]:
        """The calls that go with the oldest of their key, and for how many seconds more they should wait."""
        chosen: list[_Waiting] = []
        rows = 0
        for other in self._queue:
            fits = not chosen or rows + other.call.rows <= self._rules.max_batch_size
            if other.call.key == first.call.key and fits:
                chosen.append(other)
                rows += other.call.rows
        if rows >= self._rules.max_batch_size:
            return chosen, 0.0
        now = time.monotonic()
        left = first.since + self._rules.batch_timeout_micros / 1e6 - now
        expected, until = self._expected.get(first.call.key, (0, 0.0))
        return chosen, max(left, until - now if rows < expected else 0.0)

    def _answers(self, batch: _Batch) -> list[Arrays | Exception]:
        """Run a batch, in a thread."""
        calls = [one.call for one in batch.calls]
        try:
            whole = batching.joined(calls, self._rules)
            return list(batching.split(self._predict(whole, batch), calls, whole.rows))
        except Exception as error:
            if len(calls) == 1 or batch.cancellation.is_cancelled:
                return [error] * len(calls)
        return [self._alone(call, batch) for call in calls]

    def _alone(self, call: Call, batch: _Batch) -> Arrays | Exception:
        try:
            return self._predict(call, batch)
        except Exception as error:
            return error

    def _predict(self, call: Call, batch: _Batch) -> Arrays:
        with cancelled_by(batch.cancellation):
            return call.servable.run(call.signature, call.inputs, call.outputs)

    def _expect(self, key: tuple[object, ...], ended: _Batch) -> None:
        """Expect the callers of a batch again, and forget those that have not come."""
        now = time.monotonic()
        self._expected = {one: kept for one, kept in self._expected.items() if kept[1] > now}
        rows = sum(one.call.rows for one in (*ended.calls, *self._queue) if one.call.key == key)
        self._expected[key] = rows, now + RETURN

    def _finished(self, batch: _Batch, done: asyncio.Future[list[Arrays | Exception]]) -> None:
        self._running.discard(batch)
        self._expect(batch.calls[0].call.key, batch)
        if done.cancelled():  # the server stops
            for waiting in batch.calls:
                waiting.answer.cancel()
            return
        for waiting, answer in zip(batch.calls, done.result(), strict=True):
            if waiting.answer.done():
                continue
            if isinstance(answer, dict):
                waiting.answer.set_result(answer)
            else:
                waiting.answer.set_exception(answer)
        self._dispatch()
