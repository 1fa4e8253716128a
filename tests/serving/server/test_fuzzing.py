"""Ten thousand broken requests: each has an answer that blames the client, and the server goes on.

Requests are made from valid ones of every signature, by changes that are drawn from a seed. A failure names
the number of the request, which draws it again.
"""

import base64
import http.client
import json
import math
import random
from collections import Counter
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, model_management_pb2, predict_pb2

from serving.client.connect import connect
from serving.server.server import Limits, Options, background_server
from serving.wire.errors import LONGEST
from serving.wire.open_inference_protos import SERVICE, answer, message
from tests import stand_ins
from tests.serving.export.image_files import encoded
from tests.serving.server.test_attacks import ROW, address, peak_memory

pytestmark = pytest.mark.slow

REST, GRPC = 6_000, 4_000
PREDICTION = "tensorflow.serving.PredictionService"
# Above the paths, what a client may be told: TF Serving's codes for what is wrong with a request.
STATUSES = {200, 400, 404, 405, 411, 413, 415, 429, 501}
CODES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.PERMISSION_DENIED,
}
JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**31,
    2**63,
    10**400,
    1e308,
    -0.0,
    math.nan,
    math.inf,
    "",
    "x",
    "\u0000\ud800",
    "\U0001f600" * 9,
    [],
    [[]],
    [[[[[[[[[[1]]]]]]]]]],
    [1, [2]],
    {},
    {"b64": "no base64!"},
    {"b64": ""},
    {"b64": 5},
    {"b64": "iVBORw0KGgo="},
    {"": ""},
)
TOKENIZER = ("encode", "encode_pixels", "decode")
PATHS = (
    *["/v1/models/MODEL:predict"] * 6,
    "/v1/models/MODEL/versions/1:predict",
    "/v1/models/MODEL/labels/stable:predict",
    "/v1/models/MODEL",
    "/v1/models/MODEL/metadata",
    "/v1/models/MODEL/versions/1",
    "/monitoring/prometheus/metrics",
)
INFER_PATHS = (
    *["/v2/models/MODEL/infer"] * 6,
    "/v2/models/MODEL/versions/1/infer",
    "/v2/models/MODEL",
    "/v2/models/MODEL/ready",
    "/v2/health/ready",
    "/v2",
)
FLOATS = ("temperature", "top_p", "guidance_scale", "pixels")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    stand_ins.write_generator(str(folder / "vim" / "1"))
    stand_ins.write_tokenizer(str(folder / "vit_vqgan" / "1"))
    with background_server(str(folder), Options(limits=Limits(max_message_bytes=2**20))) as running:
        yield running


def image() -> bytes:
    return encoded(np.full([stand_ins.SIZE, stand_ins.SIZE, 3], 99, np.uint8), "PNG")


def bodies() -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Paths and a valid JSON body for each signature that takes inputs, in both forms and both protocols."""
    pixels = np.full([1, stand_ins.SIZE, stand_ins.SIZE, 3], 0.5).tolist()
    tokens = np.zeros([1, stand_ins.TOKENS], int).tolist()
    picture = {"b64": base64.b64encode(image()).decode()}
    rows = [
        ("generate", ROW),
        ("complete", {**ROW, "image_bytes": picture, "kept_rows": 1}),
        ("score", {"image_bytes": picture, "class_id": 1}),
        ("encode", {"image_bytes": picture}),
        ("encode_pixels", {"pixels": pixels[0]}),
        ("decode", {"tokens": tokens[0]}),
    ]
    found = []
    for name, row in rows:
        model = "vit_vqgan" if name in TOKENIZER else "vim"
        paths = tuple(path.replace("MODEL", model) for path in PATHS)
        found.append((paths, {"signature_name": name, "instances": [row, row]}))
        columns = {key: [value] for key, value in row.items()}
        found.append((paths, {"signature_name": name, "inputs": columns}))
        infer = tuple(path.replace("MODEL", f"{model}.{name}") for path in INFER_PATHS)
        found.append((infer, {"id": "x", "inputs": [tensor(key, row[key]) for key in row]}))
    return found


def tensor(name: str, value: Any) -> dict[str, Any]:
    """An input of the Open Inference Protocol, of one row."""
    if name == "image_bytes":
        parameters = {"content_type": "base64"}
        return {
            "name": name,
            "shape": [1],
            "datatype": "BYTES",
            "data": [value["b64"]],
            "parameters": parameters,
        }
    values = np.array([value])
    datatype = {"seed": "INT64"}.get(name, "FP32" if name in FLOATS else "INT32")
    return {"name": name, "shape": list(values.shape), "datatype": datatype, "data": values.tolist()}


def changed(value: Any, draw: random.Random) -> Any:
    """A JSON value with one of its parts replaced, removed, repeated or renamed."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(sorted(value))
        kind = draw.randrange(10)
        if kind == 0:
            return {other: each for other, each in value.items() if other != key}
        if kind == 1:
            return {**value, draw.choice(["", "\u0000", "x" * 3000, key.upper()]): value[key]}
        return {**value, key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        place = draw.randrange(len(value))
        kind = draw.randrange(10)
        if kind == 0:
            return value[:place] + value[place + 1 :]
        if kind == 1:
            return value * draw.choice([2, 40])
        return [*value[:place], changed(value[place], draw), *value[place + 1 :]]
    return draw.choice(JUNK)


def broken(whole: bytes, draw: random.Random) -> bytes:
    """Bytes with some cut off, exchanged or put in."""
    place = draw.randrange(len(whole) + 1)
    kind = draw.randrange(4)
    if kind == 0:
        return whole[:place]
    if kind == 1:
        return whole[:place] + draw.randbytes(draw.randrange(1, 9)) + whole[place:]
    some = bytearray(whole)
    for _ in range(draw.randrange(1, 6)):
        if some:
            some[draw.randrange(len(some))] = draw.randrange(256)
    return bytes(some)


def path_of(paths: tuple[str, ...], draw: random.Random) -> str:
    path = draw.choice(paths)
    if draw.random() < 0.7:
        return path
    odd = draw.choice(
        [
            "%0a",
            "%0d%0a",
            "%e2%80%a8",
            "..",
            "%2e%2e/%2e%2e",
            "%00",
            "9" * 40,
            "-1",
            "%F0%9F%98%80",
            "a" * 4000,
            "//",
            ":",
            "?x=1",
        ]
    )
    # What does not begin as a path is no HTTP, and answered before there is a request.
    place = draw.randrange(1, len(path))
    return path[:place] + odd + path[place:]


def test_broken_requests_over_rest_are_the_client_s_fault(server):
    valid = bodies()
    connection = http.client.HTTPConnection(*address(server), timeout=60)
    seen: Counter[int] = Counter()
    with peak_memory() as more:
        for number in range(REST):
            draw = random.Random(number)
            paths, whole = draw.choice(valid)
            body = json.dumps(changed(whole, draw)).encode()
            if draw.random() < 0.3:
                body = broken(body, draw)
            method = draw.choice(["POST"] * 60 + ["GET", "PUT", "HEAD", "DELETE", "OPTIONS"])
            path = path_of(paths, draw)
            headers = {}
            if draw.random() < 0.1:
                stated = draw.choice([len(body), len(body) // 2, 0, -1, "x", 10**30])
                headers = {"Inference-Header-Content-Length": str(stated)}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
            assert response.status in STATUSES, (number, method, path, body[:300], content[:300])
            if response.status != 200 and method != "HEAD":
                assert content.startswith(b"{"), (number, method, path, content[:300])
                said = json.loads(content)["error"]
                assert is_one_line(said), (number, said[:300])
            seen[response.status] += 1
        assert more() < 2**30
    assert seen[400] > REST / 3, seen
    assert seen[200] > REST / 50, seen
    still_answers(server)


def test_broken_requests_over_grpc_are_the_client_s_fault(server):
    requests = [(f"{PREDICTION}/Predict", request) for request in predicts()]
    requests += [
        (f"{SERVICE}/ModelInfer", infer_request(one, raw)) for one in predicts() for raw in (True, False)
    ]
    requests.append((f"{SERVICE}/ModelMetadata", message("ModelMetadataRequest")(name="vim.score")))
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "vim"
    requests.append((f"{PREDICTION}/GetModelMetadata", metadata))
    reload = model_management_pb2.ReloadConfigRequest()
    reload.config.model_config_list.config.add(name="x", base_path="/", model_platform="tensorflow")
    requests.append(("tensorflow.serving.ModelService/HandleReloadConfigRequest", reload))
    seen: Counter[grpc.StatusCode] = Counter()
    with grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel, peak_memory() as more:
        for number in range(GRPC):
            draw = random.Random(number)
            method, request = draw.choice(requests)
            body = broken(request.SerializeToString(), draw)
            code, details = grpc.StatusCode.OK, ""
            try:
                channel.unary_unary(f"/{method}")(body, timeout=60)
            except grpc.RpcError as error:
                code, details = error.code(), error.details()
            assert code in CODES, (number, method, body[:300], code, details)
            assert code == grpc.StatusCode.OK or is_one_line(details), (number, details[:300])
            seen[code] += 1
        assert more() < 2**30
    assert seen[grpc.StatusCode.INVALID_ARGUMENT] > GRPC / 3
    still_answers(server)


@pytest.mark.parametrize("given", ["x", "é", "\U0001f600", "\x00", "\U000e0001"])
def test_a_long_name_is_not_found_whatever_it_is_made_of(server, given):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = given * 9000
    with (
        grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        channel.unary_unary(f"/{PREDICTION}/Predict")(request.SerializeToString(), timeout=60)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert is_one_line(refused.value.details())


def predicts() -> list[predict_pb2.PredictRequest]:
    """A valid request of each signature."""
    found = []
    types = {"class_id": np.int32, "seed": np.int64, "top_k": np.int32, "kept_rows": np.int32}
    row = {**ROW, "image_bytes": image(), "kept_rows": 1}
    names = {
        "generate": tuple(ROW),
        "complete": tuple(row),
        "score": ("image_bytes", "class_id"),
        "encode": ("image_bytes",),
    }
    for signature, inputs in names.items():
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "vit_vqgan" if signature == "encode" else "vim"
        request.model_spec.signature_name = signature
        for name in inputs:
            kind = object if name == "image_bytes" else types.get(name, np.float32)
            request.inputs[name].CopyFrom(tf.make_tensor_proto(np.array([row[name]], kind)))
        found.append(request)
    return found


def infer_request(request: predict_pb2.PredictRequest, raw: bool) -> Any:
    """The same in the Open Inference Protocol."""
    spec = request.model_spec
    empty = message("ModelInferRequest")(raw_input_contents=[b""] if raw else [])
    tensors = answer(empty, {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}, 1)
    made = message("ModelInferRequest")(model_name=f"{spec.name}.{spec.signature_name}", id="7")
    for one in tensors.outputs:
        made.inputs.add(name=one.name, datatype=one.datatype, shape=one.shape, contents=one.contents)
    made.raw_input_contents.extend(tensors.raw_output_contents)
    return made


def is_one_line(said: str) -> bool:
    short = 0 < len(said.encode()) < LONGEST + 9
    return short and len(said.splitlines()) == 1 and "Traceback" not in said


def still_answers(server) -> None:
    with connect(server.grpc) as client:
        assert client.metadata("vim").tokens == stand_ins.TOKENS
