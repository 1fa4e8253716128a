"""Large JSON is read and written in another process."""

import asyncio
import json
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

from serving.client.connect import connect
from serving.server import json_process
from serving.server.json_process import JsonProcess
from serving.server.server import background_server
from serving.wire.errors import RequestError
from tests.serving.server.test_rest import ask

pytestmark = pytest.mark.slow

ENCODE = "/v1/models/vit_vqgan:predict"


@pytest.fixture(scope="module")
def server(base):
    with background_server(str(base)) as server:
        yield server


def pixels(rows):
    """A body of `encode_pixels`, with the numbers of each row in 14 digits."""
    values = np.full([rows, 8, 8, 3], 0.4) + np.random.default_rng(0).uniform(-1e-3, 1e-3, [rows, 8, 8, 3])
    return {"signature_name": "encode_pixels", "inputs": values.tolist()}


def json_processes():
    """Processes that threads of this one have started to read JSON."""
    found = set()
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(int(child))
    return found


def test_large_requests_and_answers_are_those_of_small_ones(server):
    body = pixels(600)
    assert len(json.dumps(body)) > json_process.LARGE_TEXT
    assert ask(server, "POST", ENCODE, body) == (200, {"outputs": [[6] * 4] * 600})
    rows = {"signature_name": "decode_pixels", "instances": [[6] * 4] * 600}
    status, answer = ask(server, "POST", ENCODE, rows)
    assert (status, len(answer["predictions"])) == (200, 600)
    one = ask(server, "POST", ENCODE, {**rows, "instances": [[6] * 4]})[1]["predictions"][0]
    assert all(row == one for row in answer["predictions"])
    with connect(server.grpc) as client:
        density = client.predict("vit_vqgan", "decode_pixels", {"tokens": np.full((600, 4), 6, np.int32)})
    np.testing.assert_array_equal(answer["predictions"][599]["mu"], density["mu"][599])


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"signature_name": "paint"}, 400, "signature of vit_vqgan must be one of decode"),
        ({"signature_name": "encode"}, 400, "image_bytes must hold strings only"),
        ({"inputs": [["a"] * 600_000]}, 400, "pixels must be float32, got strings"),
        ({"inputs": [[[0.5]] * 300_000]}, 400, "must be float32 [?, 8, 8, 3], got float32 [1, 300000, 1]"),
    ],
)  # fmt: skip
def test_errors_of_large_requests_are_those_of_small_ones(server, change, status, message):
    body = {**pixels(600), **change}
    assert len(json.dumps(body)) > json_process.LARGE_TEXT
    found, answer = ask(server, "POST", ENCODE, body)
    assert found == status
    assert message in answer["error"]


def test_others_are_answered_while_a_large_text_is_read(server):
    numbers = ",".join(["0.1234567"] * 6_000_000)
    body = f'{{"signature_name": "encode_pixels", "inputs": [{numbers}]}}'.encode()
    ask(server, "POST", ENCODE, pixels(600))  # the process has started
    answers, waited = [], []
    thread = threading.Thread(target=lambda: answers.append(ask(server, "POST", ENCODE, body)))
    thread.start()
    while thread.is_alive():
        begin = time.monotonic()
        assert ask(server, "GET", "/v1/models/vit_vqgan")[0] == 200
        waited.append(time.monotonic() - begin)
    assert answers[0][0] == 400
    # In this process the text would keep the lock for three times as long, at least.
    begin = time.monotonic()
    json.loads(body)
    assert max(waited) < 0.7 * (time.monotonic() - begin)
    assert len(waited) > 20


def test_a_process_that_is_killed_is_said_and_started_again(server):
    body = pixels(600)
    assert ask(server, "POST", ENCODE, body)[0] == 200
    # Also those of other servers of these tests.
    killed = json_processes()
    for process in killed:
        os.kill(process, signal.SIGKILL)
    statuses = [ask(server, "POST", ENCODE, body)[0] for _ in range(3)]
    assert statuses[-1] == 200
    assert set(statuses[:-1]) <= {200, 429}
    assert killed
    assert not killed & json_processes()


def test_the_process_ends_with_its_server(base):
    before = json_processes()
    with background_server(str(base)) as server:
        ask(server, "POST", ENCODE, pixels(600))
        own = json_processes() - before
        assert len(own) == 1
    end = time.monotonic() + 10
    while json_processes() & own and time.monotonic() < end:
        time.sleep(0.05)
    assert not json_processes() & own


def test_work_that_takes_too_long_does_not_keep_what_comes_after():
    async def ask():
        process = JsonProcess(None, 8.0)
        with pytest.raises(RequestError) as error:
            await process.run(time.sleep, 3600, large=True)
        assert error.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        try:
            return await process.run(len, "next", large=True)
        finally:
            process.close()

    assert asyncio.run(ask()) == 4


def test_errors_pass_from_one_process_to_another():
    error = pickle.loads(pickle.dumps(RequestError(grpc.StatusCode.INVALID_ARGUMENT, "no")))
    assert (error.code, error.message) == (grpc.StatusCode.INVALID_ARGUMENT, "no")
