import asyncio
import contextlib
import threading

import pytest
from aiohttp import web

from serving.client import aio
from serving.demo.app import application


@contextlib.contextmanager
def background_demo(connect, tokenizers=("vit_vqgan",), local=True):
    """Run the demo's web server in a thread; yield its address."""
    loop = asyncio.new_event_loop()
    address, ready = [], threading.Event()

    async def serve():
        stop.append(asyncio.Event())
        async with connect() as client:
            runner = web.AppRunner(application(client, tokenizers, local=local), handler_cancellation=True)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            address.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
            ready.set()
            await stop[0].wait()
            await runner.cleanup()

    stop = []
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop[0].set)
        thread.join(30)
        loop.close()


@pytest.fixture(scope="session")
def demo(server):
    """The demo of the stand-in models, with one tokenizer that is served and one that is not."""
    with background_demo(lambda: aio.connect(server.grpc), ("vit_vqgan", "other")) as address:
        yield address
