import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from serving.client.connect import connect
from serving.server.servable import MAX_ROWS
from serving.server.server import Options, background_server, serve
from serving.wire.errors import ServingError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]

# As many images as one request may ask for.
ROWS = [{"class_id": 1, "seed": 0, "temperature": 1, "top_k": 0, "top_p": 1, "guidance_scale": 1}] * MAX_ROWS
BODY = json.dumps({"signature_name": "generate", "instances": ROWS}).encode()
HEAD = b"POST /v1/models/vim:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)


@pytest.mark.parametrize("which", ["port", "rest_api_port"])
def test_port_in_use_is_error(base, which):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=f"cannot listen on 127.0.0.1:{port}: address already in use"):
            serve(str(base), Options(**{"port": 0, "rest_api_port": 0, which: port}))


def test_background_server_stops_with_its_context(base):
    with background_server(str(base)) as server:
        assert connect(server.http).metadata("vim").image_size == 8
    with pytest.raises(ServingError, match=f"no server answers at {server.http}"):
        connect(server.http).metadata("vim")
    with pytest.raises(ServingError, match=f"no server answers at {server.grpc}"):
        connect(server.grpc).metadata("vim")


def test_sigterm_finishes_running_requests_and_exits_with_0(base):
    program = (
        "from serving.server.server import Options, serve;"
        f"serve({str(base)!r}, Options(port=0, rest_api_port=0))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        lines = [process.stdout.readline().split() for _ in range(3)]
        assert [line[:4] for line in lines] == [
            ["serving", "classifier", "version", "5"],
            ["serving", "vim", "version", "17"],
            ["serving", "vit_vqgan", "version", "3"],
        ]
        host, port = lines[0][6].removeprefix("http://").split(":")
        with contextlib.ExitStack() as stack:
            running = [stack.enter_context(socket.create_connection((host, port))) for _ in range(4)]
            for connection in running:
                connection.sendall(HEAD + BODY)
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            answers = [connection.recv(100) for connection in running]
        assert [answer.split(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 200 OK"] * 4
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.stdout.close()


def test_arguments_of_grpc_win_over_the_server_s_own(base):
    options = Options(grpc_arguments=(("grpc.max_receive_message_length", 1000),))
    with (
        background_server(str(base), options) as server,
        grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel,
    ):
        ask = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as refused:
            ask(b"x" * 2000, timeout=20)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
