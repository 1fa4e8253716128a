import asyncio
import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf

from serving.server.batching import Batching, Call
from serving.server.observation import Observer, Seen
from serving.server.scheduler import Scheduler
from serving.server.servable import Signature
from serving.wire.errors import RequestError, invalid

ROWS = Signature("rows", {"x": tf.TensorSpec([None], tf.int32)}, {"y": tf.TensorSpec([None], tf.int32)})


class Doubling:
    """A model that doubles; it refuses -1, and waits until it is let go."""

    def __init__(self):
        self.go = threading.Event()
        self.batches = []

    def run(self, signature, inputs, outputs):
        self.go.wait(20)
        self.batches.append(inputs["x"].tolist())
        if -1 in inputs["x"]:
            raise invalid("x must be 0 or more")
        return {"y": 2 * inputs["x"]}


def scheduler(**options):
    limits = {"max_waiting_bytes": 2**20, "seconds": 20.0, **options}
    return Scheduler(limits.pop("rules", Batching(max_batch_size=4)), Observer(), **limits)


async def answer(pool, model, *values, seconds=None):
    call = Call(model, ROWS, {"x": np.array(values, np.int32)}, ("y",))
    return (await pool.run(call, Seen("GRPC", "Predict"), seconds))["y"].tolist()


def play(scenario):
    async def timed():
        return await asyncio.wait_for(scenario(), 30)

    return asyncio.run(timed())


def test_rows_that_wait_share_calls_and_get_their_own_answers():
    async def scenario():
        model, pool = Doubling(), scheduler()
        tasks = [asyncio.create_task(answer(pool, model, number, number)) for number in range(6)]
        await asyncio.sleep(0.05)
        model.go.set()
        answers = await asyncio.gather(*tasks)
        pool.close()
        return answers, model.batches

    answers, batches = play(scenario)
    assert answers == [[2 * number] * 2 for number in range(6)]
    # The first had a free thread; of the others two fill a batch each.
    assert batches == [[0, 0], [1, 1, 2, 2], [3, 3, 4, 4], [5, 5]]


def test_without_batching_each_request_is_a_call():
    async def scenario():
        model, pool = Doubling(), scheduler(rules=Batching(enabled=False))
        model.go.set()
        answers = await asyncio.gather(*(answer(pool, model, number) for number in range(3)))
        pool.close()
        return answers, model.batches

    assert play(scenario) == ([[0], [2], [4]], [[0], [1], [2]])


def test_a_batch_that_is_not_full_waits_for_more_rows_for_so_long():
    async def scenario():
        model = Doubling()
        model.go.set()
        pool = scheduler(rules=Batching(max_batch_size=2, batch_timeout_micros=300_000))
        begin = time.monotonic()
        alone = await answer(pool, model, 1)
        waited = time.monotonic() - begin
        begin = time.monotonic()
        full = await asyncio.gather(answer(pool, model, 2), answer(pool, model, 3))
        pool.close()
        return alone, waited, full, time.monotonic() - begin, model.batches

    alone, waited, full, at_once, batches = play(scenario)
    assert (alone, full, batches) == ([2], [[4], [6]], [[1], [2, 3]])
    assert waited >= 0.3 > at_once


def test_a_faulty_request_is_refused_alone():
    async def scenario():
        model, pool = Doubling(), scheduler()
        tasks = [asyncio.create_task(answer(pool, model, value)) for value in (0, 1, -1, 2)]
        await asyncio.sleep(0.05)
        model.go.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        pool.close()
        return answers

    first, second, refused, last = play(scenario)
    assert [first, second, last] == [[0], [2], [4]]
    assert (refused.code, refused.message) == (grpc.StatusCode.INVALID_ARGUMENT, "x must be 0 or more")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rules": Batching(max_batch_size=1, max_enqueued_batches=2)}, "2 rows of at most 2 are waiting"),
        ({"max_waiting_bytes": 8}, "8 bytes of at most 8 are waiting"),
    ],
)
def test_a_request_beyond_the_queue_is_refused_and_room_is_made_again(options, message):
    async def scenario():
        model, pool = Doubling(), scheduler(**options)
        tasks = [asyncio.create_task(answer(pool, model, number)) for number in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(RequestError) as caught:
            await answer(pool, model, 3)
        model.go.set()
        answers = [*await asyncio.gather(*tasks), await answer(pool, model, 4)]
        pool.close()
        return answers, caught.value

    answers, error = play(scenario)
    assert answers == [[0], [2], [4], [8]]
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert message in error.message


class Endless:
    """A model whose call runs until TensorFlow cancels it."""

    def __init__(self):
        self.ended = threading.Event()

        @tf.function
        def loop():
            return tf.while_loop(lambda step: step < 2**40, lambda step: step + 1, [tf.constant(0, tf.int64)])

        self.loop = loop.get_concrete_function()

    def run(self, signature, inputs, outputs):
        try:
            self.loop()
        finally:
            self.ended.set()


def test_a_call_that_nobody_waits_for_is_cancelled_and_the_thread_is_free():
    async def scenario():
        endless, model, pool = Endless(), Doubling(), scheduler()
        model.go.set()
        with pytest.raises(RequestError, match="no answer within 0 seconds") as caught:
            await answer(pool, endless, 1, seconds=0.2)
        assert await answer(pool, model, 2) == [4]
        left = asyncio.create_task(answer(pool, endless, 1))
        await asyncio.sleep(0.1)
        endless.ended.clear()
        left.cancel()
        assert await answer(pool, model, 3) == [6]
        pool.close()
        return caught.value.code, endless.ended.is_set()

    assert play(scenario) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)


def test_cancelling_a_call_leaves_those_of_other_threads_alone():
    """TensorFlow's own manager is one for the whole process: what a client left would end a warm-up."""
    counting, busy = [], threading.Event()

    @tf.function
    def steps(most):
        return tf.while_loop(lambda step: step < most, lambda step: step + 1, [tf.constant(0, tf.int64)])

    def warm_up():
        busy.wait(5)
        counting.append(int(steps(tf.constant(300_000, tf.int64))[0]))

    steps(tf.constant(1, tf.int64))
    thread = threading.Thread(target=warm_up)
    thread.start()

    async def scenario():
        endless, pool = Endless(), scheduler(rules=Batching(num_batch_threads=2))
        tasks = [asyncio.create_task(answer(pool, endless, number, seconds=0.3)) for number in range(2)]
        await asyncio.sleep(0.1)
        busy.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        pool.close()

    play(scenario)
    thread.join()
    assert counting == [300_000]


def test_a_full_batch_of_one_signature_does_not_wait_for_an_older_one_of_another():
    async def scenario():
        model = Doubling()
        model.go.set()
        pool = scheduler(rules=Batching(max_batch_size=2, batch_timeout_micros=5_000_000))
        slow = asyncio.create_task(answer(pool, model, 1))
        await asyncio.sleep(0.01)
        other = Signature("other", ROWS.inputs, ROWS.outputs)
        calls = [Call(model, other, {"x": np.array([value], np.int32)}, ("y",)) for value in (2, 3)]
        begin = time.monotonic()
        answers = await asyncio.gather(*(pool.run(call, Seen("GRPC", "Predict")) for call in calls))
        taken = time.monotonic() - begin
        slow.cancel()
        pool.close()
        return [found["y"].tolist() for found in answers], taken

    answers, taken = play(scenario)
    assert answers == [[4], [6]]
    assert taken < 2


def test_messages_that_are_being_read_are_bounded_together():
    async def scenario():
        pool = scheduler(max_waiting_bytes=10)
        pool.hold(8)
        with pytest.raises(RequestError, match="it reads 8 bytes of at most 10"):
            pool.hold(3)
        pool.release(8)
        pool.hold(100)  # a message alone is bounded by its own limit
        pool.close()

    play(scenario)


def test_closing_ends_what_runs_and_what_waits():
    async def scenario():
        endless, pool = Endless(), scheduler()
        tasks = [asyncio.create_task(answer(pool, endless, number)) for number in range(2)]
        await asyncio.sleep(0.1)
        pool.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        return endless.ended.wait(5)

    assert play(scenario)


def test_a_request_that_waits_too_long_is_dropped_before_it_runs():
    async def scenario():
        model, pool = Doubling(), scheduler()
        first = asyncio.create_task(answer(pool, model, 1))
        await asyncio.sleep(0.05)
        with pytest.raises(RequestError, match="no answer within 0 seconds"):
            await answer(pool, model, 2, seconds=0.1)
        model.go.set()
        await first
        assert await answer(pool, model, 3) == [6]
        pool.close()
        return model.batches

    assert play(scenario) == [[1], [3]]


def test_no_row_waits_when_its_caller_has_left():
    async def scenario():
        model, observer = Doubling(), Observer()
        pool = Scheduler(Batching(max_batch_size=4), observer, max_waiting_bytes=2**20, seconds=20.0)
        running = asyncio.create_task(answer(pool, model, 1))
        await asyncio.sleep(0.05)
        left = asyncio.create_task(answer(pool, model, 2))
        await asyncio.sleep(0.05)
        waiting = observer.exposition()
        left.cancel()
        await asyncio.sleep(0.05)
        nobody = observer.exposition()
        model.go.set()
        await running
        pool.close()
        return waiting, nobody

    waiting, nobody = play(scenario)
    assert ":tfx_vim:serving:waiting_rows 1" in waiting
    assert ":tfx_vim:serving:waiting_rows 0" in nobody
