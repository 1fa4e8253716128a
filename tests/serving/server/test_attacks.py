"""Requests that are made to cost a server more than they cost the client."""

import asyncio
import contextlib
import http.client
import io
import json
import socket
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from serving.client import aio, queries
from serving.client.connect import connect
from serving.server.server import Limits, Options, background_server
from serving.wire.errors import ClientError
from tests import stand_ins

pytestmark = pytest.mark.slow

ROW = {"class_id": 2, "seed": 1, "temperature": 0, "top_k": 0, "top_p": 1, "guidance_scale": 1}


def address(server):
    host, port = server.http.removeprefix("http://").split(":")
    return host, int(port)


def ask(server, body=None, timeout=20):
    """Send a request for one image; return (HTTP status, answer)."""
    connection = http.client.HTTPConnection(*address(server), timeout=timeout)
    body = {"signature_name": "generate", "instances": [ROW]} if body is None else body
    connection.request(
        "POST", "/v1/models/vim:predict", body if isinstance(body, bytes) else json.dumps(body)
    )
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def call(server, method="Predict", body=b"", timeout=20):
    """Send bytes to a method of the PredictionService; return (status code, details)."""
    with grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel:
        send = channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
        try:
            return grpc.StatusCode.OK, send(body, timeout=timeout)
        except grpc.RpcError as error:
            return error.code(), error.details()


def generate_bytes(**more):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "vim", "generate"
    types = {"class_id": np.int32, "seed": np.int64, "top_k": np.int32}
    for name, value in {**ROW, **more}.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(np.array([value], types.get(name, np.float32))))
    return request


@contextlib.contextmanager
def peak_memory():
    """Yield a function: how many bytes more than now this process has held since."""
    status = Path("/proc/self/status")

    def bytes_of(key):
        line = next(line for line in status.read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = bytes_of("VmRSS")
    yield lambda: bytes_of("VmHWM") - before


def expanding(name_of, shape, count):
    request = generate_bytes()
    for number in range(count):
        tensor = request.inputs[name_of(number)]
        tensor.Clear()
        tensor.dtype = tf.float32.as_datatype_enum
        tensor.tensor_shape.dim.add(size=shape)
        tensor.float_val.append(1.0)
    return request.SerializeToString()


@pytest.mark.parametrize(
    "body",
    [
        expanding(lambda number: f"unknown{number}", 2**24, 12),
        expanding(lambda number: ["temperature", "top_p", "guidance_scale"][number], 2**24, 3),
        expanding(lambda number: "temperature", 2**40, 1),
    ],
)
def test_small_messages_of_large_tensors_take_no_memory(server, body):
    assert len(body) < 1000
    call(server, body=generate_bytes().SerializeToString())
    with peak_memory() as peak:
        for _ in range(3):
            code, details = call(server, body=body)
            assert code is grpc.StatusCode.INVALID_ARGUMENT, details
        assert peak() < 50e6
    assert call(server, body=generate_bytes().SerializeToString())[0] is grpc.StatusCode.OK


def test_a_damaged_message_is_invalid_and_names_no_class_of_python(server):
    code, details = call(server, body=generate_bytes().SerializeToString()[:-3])
    assert (code, details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "message must be a PredictRequest, got damaged bytes",
    )
    assert call(server, "Classify")[0] is grpc.StatusCode.UNIMPLEMENTED


def test_long_names_are_not_repeated_in_answers(server):
    request = generate_bytes()
    request.inputs["x" * 2**20].CopyFrom(request.inputs["seed"])
    code, details = call(server, body=request.SerializeToString())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "got also xxx" in details
    assert len(details) < 300
    status, answer = ask(server, {"signature_name": "y" * 2**20, "instances": [ROW]})
    assert status == 400
    assert len(answer["error"]) < 3000


def test_idle_sockets_by_the_hundred_lock_nobody_out_and_are_closed(base):
    limits = Limits(header_seconds=3.0, body_seconds=3.0)
    with background_server(str(base), Options(limits=limits)) as server, contextlib.ExitStack() as stack:
        assert ask(server)[0] == 200
        idle = [stack.enter_context(socket.create_connection(address(server))) for _ in range(200)]
        for number, connection in enumerate(idle):
            head = b"POST /v1/models/vim:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n"
            # Without a header, with half of one, and with a header alone.
            connection.sendall((b"", head, head + b"\r\n", head + b"\r\n{")[number % 4])
        begin = time.monotonic()
        assert ask(server)[0] == 200
        assert call(server, body=generate_bytes().SerializeToString())[0] is grpc.StatusCode.OK
        assert time.monotonic() - begin < 3
        for connection in idle:
            connection.settimeout(10)
            while data := connection.recv(1000):  # ends when the server closes
                assert b"408" in data or b"error" in data
        assert time.monotonic() - begin < 12
        assert ask(server)[0] == 200


def test_bodies_that_are_being_read_are_bounded_together(base):
    limits = Limits(max_waiting_bytes=2**20, body_seconds=5.0)
    with background_server(str(base), Options(limits=limits)) as server, contextlib.ExitStack() as stack:
        head = b"POST /v1/models/vim:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 800000\r\n\r\n"
        first, second = (stack.enter_context(socket.create_connection(address(server))) for _ in range(2))
        first.sendall(head + bytes(700_000))
        time.sleep(0.3)
        second.sendall(head + bytes(700_000))
        second.settimeout(10)
        assert b"429 Too Many Requests" in second.recv(1000)
        assert ask(server)[0] == 200
        first.close()


def bomb(side):
    """A PNG of one colour: a bit a pixel, some kilobytes."""
    buffer = io.BytesIO()
    PIL.Image.new("1", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def example(content):
    made = tf.train.Example()
    made.features.feature["image/encoded"].bytes_list.value.append(content)
    return made.SerializeToString()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize(
    ("signature", "argument", "named", "made"),
    [
        ("encode", "image_bytes", "image_bytes", lambda content: content),
        ("serving_default", "examples", "image/encoded", example),
    ],
)
def test_pictures_of_many_pixels_are_refused_by_their_headers(
    server, protocol, signature, argument, named, made
):
    allowed, larger = made(bomb(64)), made(bomb(8192))
    assert len(larger) < 20_000
    with connect(getattr(server, protocol)) as client:
        client.predict("vit_vqgan", signature, {argument: np.array([allowed], object)})
        with peak_memory() as peak:
            pictures = {argument: np.array([allowed, larger, larger], object)}
            message = f"{named} must have at most 33554432 pixels, got 8192 x 8192 in row 1"
            with pytest.raises(ClientError, match=message):
                client.predict("vit_vqgan", signature, pictures)
        assert peak() < 100 * 2**20


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """The folder of a model that draws without end for class 0, until it is cancelled."""

    def sample(request):
        def spin(steps):
            return tf.while_loop(lambda step: step < steps, lambda step: step + 1, [tf.constant(0, tf.int64)])

        wanted = tf.where(tf.reduce_any(request.class_id == 0), tf.constant(2**40, tf.int64), 1)
        with tf.control_dependencies([spin(wanted)[0]]):
            return stand_ins.sample(request)

    folder = tmp_path_factory.mktemp("slow")
    stand_ins.write_generator(str(folder / "vim" / "1"), sample=sample)
    # The warm-up asks for class 0.
    (folder / "vim" / "1" / "assets.extra" / "tf_serving_warmup_requests").unlink()
    return str(folder)


@pytest.fixture(scope="module")
def slow(endless):
    with background_server(endless, Options(limits=Limits(request_seconds=60.0))) as server:
        yield server


def test_a_server_ends_within_its_grace_whatever_runs(endless):
    errors = []

    def until_refused(send, *arguments):
        try:
            errors.append(send(*arguments)[0])
        except (OSError, http.client.HTTPException):
            errors.append("closed")

    with background_server(endless, Options(limits=Limits(grace_seconds=2.0))) as server:
        body = {"signature_name": "generate", "instances": [{**ROW, "class_id": 0}]}
        asked = [
            (ask, server, body),
            (call, server, "Predict", generate_bytes(class_id=0).SerializeToString()),
        ]
        threads = [threading.Thread(target=until_refused, args=one) for one in asked]
        for thread in threads:
            thread.start()
        time.sleep(1)
        begin = time.monotonic()
    assert time.monotonic() - begin < 4
    for thread in threads:
        thread.join(10)
    assert len(errors) == 2
    assert 200 not in errors
    assert grpc.StatusCode.OK not in errors


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_what_a_client_has_left_behind_does_not_run_on(slow, protocol):
    for _ in range(2):
        if protocol == "grpc":
            request = generate_bytes(class_id=0).SerializeToString()
            assert call(slow, body=request, timeout=0.5)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            with pytest.raises(TimeoutError):
                ask(slow, {"signature_name": "generate", "instances": [{**ROW, "class_id": 0}]}, timeout=0.5)
    begin = time.monotonic()
    assert ask(slow)[0] == 200
    assert time.monotonic() - begin < 10


def test_a_stream_that_is_left_does_not_run_on(slow):
    async def leave():
        async with aio.connect(slow.grpc) as client:
            answers = aio.stream(client, queries.generation([0] * 3, batch_size=1), in_flight=3)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(anext(answers), 0.5)
            # While the connection is open, which would cancel them too.
            return await aio.run(client, queries.generation([1]))

    begin = time.monotonic()
    images, _ = asyncio.run(leave())
    assert len(images) == 1
    assert time.monotonic() - begin < 10


def test_requests_by_the_hundred_at_once_are_all_answered(server):
    statuses = []

    def one():
        statuses.append(ask(server, timeout=60)[0])

    threads = [threading.Thread(target=one) for _ in range(300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 300
