import asyncio
import contextlib
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from aiohttp import web

from serving.client import aio, queries
from serving.client.client import ATTEMPTS, Client
from serving.client.connect import connect, open_folder
from serving.client.query import run, stream
from serving.export.sampling_params import SamplingParams
from serving.wire.errors import ClientError, RefusedError
from tests.components.image_example_gen import pictures


class Counter(aio.AsyncClient):
    """Answers encode, each request after its own seconds; counts those that run and that were cancelled."""

    def __init__(self, *seconds):
        self.seconds = seconds
        self.running = self.most = self.cancelled = self.asked = 0

    async def predict(self, model, signature, inputs):
        self.asked += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds[self.asked - 1])
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return {"tokens": np.array([[len(one)] for one in inputs["image_bytes"]], np.int32)}


@pytest.fixture(scope="module")
def encoding():
    images = [pictures.encoded(size=(8 + index, 8)) for index in range(7)]
    return queries.encoding(images, batch_size=2)


def test_answers_come_in_order_with_some_requests_in_flight(encoding):
    async def collect(client):
        return [answer async for answer in aio.stream(client, encoding, in_flight=3)]

    client = Counter(0.2, 0.1, 0.05, 0)
    answers = asyncio.run(collect(client))
    assert [len(answer) for answer in answers] == [2, 2, 2, 1]
    expected = [len(one) for one in encoding.inputs["image_bytes"]]
    assert np.concatenate(answers)[:, 0].tolist() == expected
    assert client.most == 3


def test_a_stream_that_is_left_cancels_its_requests(encoding):
    async def leave(client):
        answers = aio.stream(client, encoding, in_flight=3)
        await anext(answers)
        await answers.aclose()
        # Here, since the end of the loop cancels whatever is left.
        assert client.running == 0
        assert client.cancelled == 2

    client = Counter(0.01, 60, 60)
    asyncio.run(leave(client))
    assert client.asked == 3


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_every_query_answers_as_the_synchronous_client(server, kind):
    image = pictures.encoded(size=(20, 16))
    params = SamplingParams(seed=5)
    asked = [
        queries.generation([0, 1, 2], params, batch_size=2),
        queries.completion([image] * 3, [0, 1, 2], 1, params, batch_size=2),
        queries.encoding([image] * 3, batch_size=2),
        queries.decoding(np.arange(12).reshape(3, 4), batch_size=2),
        queries.reconstruction([image] * 3, batch_size=2),
    ]

    async def answers():
        async with aio.connect(getattr(server, kind)) as client:
            return await client.metadata("vim"), [await aio.run(client, one) for one in asked]

    metadata, found = asyncio.run(answers())
    with connect(server.grpc) as client:
        assert metadata == client.metadata("vim")
        for query, answer in zip(asked, found, strict=True):
            np.testing.assert_equal(answer, run(client, query))
            parts = list(stream(client, query))
            assert len(parts) == 2
            joined = (
                tuple(map(np.concatenate, zip(*parts, strict=True)))
                if isinstance(answer, tuple)
                else np.concatenate(parts)
            )
            np.testing.assert_equal(answer, joined)


def test_a_folder_is_asked_in_threads(base):
    async def ask():
        async with aio.ThreadedClient(open_folder(str(base))) as client:
            return await asyncio.gather(*(client.metadata(name) for name in ("vim", "vit_vqgan")))

    assert [one.kind for one in asyncio.run(ask())] == ["generator", "tokenizer"]


class Stuck(Client):
    """Never answers."""

    def predict(self, model, signature, inputs):
        threading.Event().wait()


def test_a_program_ends_though_a_request_in_a_thread_does_not(encoding):
    async def leave():
        async with aio.ThreadedClient(Stuck()) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(aio.run(client, encoding), 0.1)

    before, begin = set(threading.enumerate()), time.monotonic()
    asyncio.run(leave())
    assert time.monotonic() - begin < 5
    left = set(threading.enumerate()) - before
    assert len(left) == 2
    assert all(thread.daemon for thread in left)


def test_an_image_that_is_refused_is_named_by_its_row(server):
    broken = pictures.encoded(size=(30, 30), encoding="JPEG")[:200]
    query = replace(
        queries.encoding([pictures.encoded()] * 2), inputs={"image_bytes": np.array([b"", broken], object)}
    )
    with (
        connect(server.grpc) as client,
        pytest.raises(RefusedError, match="row 0 of 2 was refused: image must be a"),
    ):
        run(client, query)


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_errors_are_one_line(server, kind):
    async def ask(endpoint, **options):
        async with aio.connect(endpoint, **options) as client:
            return await aio.run(client, queries.decoding(np.full([1, 4], 99)))

    with pytest.raises(ClientError, match=r"refused: tokens must be in \[0, 16\)"):
        asyncio.run(ask(getattr(server, kind)))
    with pytest.raises(ClientError, match="no server answers at"):
        asyncio.run(ask(f"{kind}://127.0.0.1:1", timeout=5.0))
    with pytest.raises(ClientError, match="version must be"):
        asyncio.run(ask(getattr(server, kind), version=-1))


@contextlib.asynccontextmanager
async def answering(handler):
    """A server of REST whose `:predict` is a handler; the endpoint."""

    async def metadata(request):
        outputs = {"tokens": {"dtype": "DT_INT32"}, "error": {"dtype": "DT_STRING"}}
        return web.json_response(
            {"metadata": {"signature_def": {"signature_def": {"encode": {"outputs": outputs}}}}}
        )

    app = web.Application()
    app.router.add_get("/v1/models/m/metadata", metadata)
    app.router.add_post("/v1/models/m:predict", handler)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


TOKENS = {"outputs": {"tokens": [[1]], "error": [""]}}
IMAGE = {"image_bytes": np.array([b"x"], object)}


def test_a_cancelled_call_over_rest_ends_on_the_server():
    async def leave():
        begun, ended = asyncio.Event(), asyncio.Event()

        async def never(request):
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        async with answering(never) as endpoint, aio.connect(endpoint) as client:
            call = asyncio.create_task(client.predict("m", "encode", IMAGE))
            await asyncio.wait_for(begun.wait(), 10)
            call.cancel()
            await asyncio.wait_for(ended.wait(), 10)

    asyncio.run(leave())


def test_a_busy_server_is_asked_again_within_the_time_limit_and_no_redirect_is_followed():
    async def ask():
        statuses = [429, 503, 200]

        async def handler(request):
            status = statuses.pop(0)
            if status == 302:
                return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})
            return web.json_response(TOKENS if status == 200 else {"error": "busy"}, status=status)

        async with answering(handler) as endpoint, aio.connect(endpoint, timeout=20) as client:
            answer = await client.predict("m", "encode", IMAGE)
            assert answer["tokens"].tolist() == [[1]]
            assert statuses == []
            statuses[:] = [302]
            with pytest.raises(ClientError, match="refused: 302 Found"):
                await client.predict("m", "encode", IMAGE)
            statuses[:] = [429] * 10
            with pytest.raises(ClientError, match="refused: busy"):
                await client.predict("m", "encode", IMAGE)
            assert len(statuses) == 10 - ATTEMPTS

    asyncio.run(ask())


def test_a_server_that_is_silent_or_answers_something_else_is_one_line():
    async def ask():
        bodies = []

        async def handler(request):
            if not bodies:
                await asyncio.sleep(60)
            return web.Response(text=bodies.pop())

        async with answering(handler) as endpoint, aio.connect(endpoint, timeout=1) as client:
            with pytest.raises(ClientError, match="gave no answer in 1 seconds"):
                await client.predict("m", "encode", IMAGE)
            for body, said in (("<html>", "must answer with JSON"), ('{"outputs": 3}', "with tensors")):
                bodies.append(body)
                with pytest.raises(ClientError, match=said):
                    await client.predict("m", "encode", IMAGE)
            with pytest.raises(ClientError, match="signature of m must be one of encode, got 'x'"):
                await client.predict("m", "x", IMAGE)

    asyncio.run(ask())


def test_an_endpoint_of_another_form_is_refused():
    with pytest.raises(ClientError, match="endpoint must be grpc://host:port"):
        aio.connect("localhost:8500")
