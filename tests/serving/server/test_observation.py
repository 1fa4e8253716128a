"""What is told of requests."""

import http.client
import io
import json
import re

import grpc
import numpy as np
import pytest

from serving.client.connect import connect
from serving.server.observation import Observer
from serving.server.rest import METRICS
from serving.server.server import Options, background_server
from serving.wire.errors import ClientError, RequestError, invalid

LINE = re.compile(r'[:a-zA-Z_]+(\{[a-zA-Z_]+="[^"\n]*"(,[a-zA-Z_]+="[^"\n]*")*\})? [0-9.e+]+')


def samples(text):
    """The samples of an exposition, by name and labels; each line is checked."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            assert LINE.fullmatch(line), line
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


def refuse(observer):
    with observer.observe("REST", "Predict") as seen:
        seen.model = "vim"
        raise invalid("x")


def test_a_request_is_counted_with_its_status_and_time():
    observer = Observer()
    with observer.observe("GRPC", "Predict") as seen:
        seen.model, seen.signature = "vim", "generate"
        seen.queue_seconds, seen.run_seconds = 0.001, 0.02
    for _ in range(2):
        with pytest.raises(RequestError, match="x"):
            refuse(observer)
    found = samples(observer.exposition())
    count = ":tensorflow:serving:request_count"
    assert found[f'{count}{{model_name="vim",status="OK"}}'] == 1
    assert found[f'{count}{{model_name="vim",status="INVALID_ARGUMENT"}}'] == 2
    runtime = ':tensorflow:serving:runtime_latency_%s{model_name="vim",API="Predict",runtime="TF2"%s}'
    assert found[runtime % ("sum", "")] == pytest.approx(20_000)
    # 10 times the 12th and the 13th power of 1.8.
    assert found[runtime % ("bucket", ',le="11568.3"')] == 0
    assert found[runtime % ("bucket", ',le="20823"')] == 1
    assert found[runtime % ("bucket", ',le="+Inf"')] == found[runtime % ("count", "")] == 1
    latency = ':tensorflow:serving:request_latency_count{model_name="vim",API="Predict",entrypoint="REST"}'
    assert found[latency] == 2


def test_quotes_in_names_stay_inside_labels():
    observer = Observer()
    with observer.observe("REST", "Predict") as seen:
        seen.model = 'a"b\\c'
    assert r'model_name="a\"b\\c"' in observer.exposition()


def test_an_error_of_ours_is_internal_and_cancelled_work_is_said():
    log = io.StringIO()
    observer = Observer(log)
    for error in (ZeroDivisionError("secret"), grpc.aio.AbortError()):
        with pytest.raises(type(error)), observer.observe("GRPC", "Predict"):
            raise error
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["status"] for line in lines] == ["INTERNAL"] * 2
    assert "secret" not in log.getvalue()


def test_a_log_that_cannot_be_written_fails_no_request():
    log = io.StringIO()
    log.close()
    with Observer(log).observe("GRPC", "Predict"):
        pass


@pytest.mark.slow
def test_requests_of_both_protocols_are_logged_and_counted(base):
    log = io.StringIO()
    inputs = {"rows": np.zeros(3, np.int32)}
    with background_server(str(base), Options(request_log=log)) as server:
        for endpoint in (server.grpc, server.http):
            with connect(endpoint) as client:
                client.predict("vim", "metadata", inputs)
                with pytest.raises(ClientError):
                    client.predict("made-up", "metadata", inputs)
        connection = http.client.HTTPConnection(server.http.removeprefix("http://"), timeout=20)
        connection.request("GET", METRICS)
        response = connection.getresponse()
        assert response.headers["Content-Type"].startswith("text/plain")
        found = samples(response.read().decode())
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    predicted = [line for line in lines if line["method"] == "Predict" and line["status"] == "OK"]
    assert [line["entrypoint"] for line in predicted] == ["GRPC", "REST"]
    for line in predicted:
        known = {name: line[name] for name in ("model", "version", "signature", "rows")}
        assert known == {"model": "vim", "version": 17, "signature": "metadata", "rows": 3}
        assert 0 <= line["queue_seconds"] <= line["seconds"]
        assert 0 < line["run_seconds"] <= line["seconds"]
    refused = [line for line in lines if line["status"] == "NOT_FOUND"]
    assert refused
    assert {line["model"] for line in refused} == {""}  # what clients make up is no label
    assert found[':tensorflow:serving:request_count{model_name="vim",status="OK"}'] >= 2
    assert found[":tfx_vim:serving:batch_rows_count"] == 2
    assert found[":tfx_vim:serving:batch_rows_sum"] == 6
