import asyncio
import threading

import grpc
import pytest

from serving.server.worker_pool import WorkerPool
from serving.wire.errors import RequestError


def test_request_beyond_the_queue_is_rejected_and_slots_are_released():
    async def scenario():
        pool = WorkerPool(workers=1, max_waiting=1, seconds=10)
        with pool.admission():
            with pool.admission(), pytest.raises(RequestError) as caught, pool.admission():
                pass
            with pool.admission():
                assert await pool.run(lambda: 7) == 7
        pool.close()
        return caught.value

    error = asyncio.run(scenario())
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2 of at most 2 requests" in error.message


def test_timed_out_work_keeps_its_thread_until_it_ends():
    let_go = threading.Event()

    async def scenario():
        pool = WorkerPool(workers=1, max_waiting=8, seconds=0.1)
        late = []
        for work in (let_go.wait, lambda: 1):  # the second one waits for the first one's thread
            with pytest.raises(RequestError) as caught:
                await pool.run(work)
            late.append(caught.value.code)
        let_go.set()
        await asyncio.sleep(0.05)
        answer = await pool.run(lambda: 2)
        pool.close()
        return late, answer

    late, answer = asyncio.run(scenario())
    assert late == [grpc.StatusCode.DEADLINE_EXCEEDED] * 2
    assert answer == 2


def test_request_timeout_may_be_shorter_than_the_pools():
    async def scenario():
        pool = WorkerPool(workers=1, max_waiting=8, seconds=60)
        with pytest.raises(RequestError, match="no answer within 0 seconds"):
            await pool.run(lambda: threading.Event().wait(0.3), seconds=0.05)
        pool.close()

    asyncio.run(scenario())


def test_errors_in_the_work_reach_the_caller():
    async def scenario():
        pool = WorkerPool(workers=1, max_waiting=8, seconds=60)
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 // 0)
        pool.close()

    asyncio.run(scenario())
