import base64
import http.client
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving.export import images
from serving.export.metadata import Metadata
from serving.server.server import Limits, Options, background_server
from tests import stand_ins
from tests.serving.export.image_files import FILES, encoded

pytestmark = pytest.mark.slow

PNG = images.encode_batch(tf.fill([1, 8, 8, 3], 0.4)).numpy()[0]
B64 = {"b64": base64.b64encode(PNG).decode()}
ROW = {"class_id": 2, "seed": 1, "temperature": 0, "top_k": 0, "top_p": 1, "guidance_scale": 1}
GENERATE = {"signature_name": "generate"}
DESCRIBE = {"signature_name": "metadata", "inputs": [0]}
COLUMNS = {name: [value] for name, value in ROW.items()}


def ask(server, method, path, body=None):
    """Send a request; return (HTTP status, decoded JSON)."""
    connection = http.client.HTTPConnection(server.http.removeprefix("http://"), timeout=30)
    connection.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body))
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def predict(server, model, body):
    return ask(server, "POST", f"/v1/models/{model}:predict", body)


def test_single_output_in_row_format_is_a_list(server):
    body = {"signature_name": "decode", "instances": [[6] * 4, {"tokens": [6] * 4}]}
    status, answer = predict(server, "vit_vqgan", body)
    assert (status, [set(one) for one in answer["predictions"]]) == (200, [{"b64"}] * 2)


def test_single_output_in_column_format_is_the_tensor(server):
    for inputs in ([[6] * 4], {"tokens": [[6] * 4]}):
        status, answer = predict(server, "vit_vqgan", {"signature_name": "decode", "inputs": inputs})
        assert (status, [set(one) for one in answer["outputs"]]) == (200, [{"b64"}])


def test_a_bad_image_fails_alone(server):
    bad = {"b64": base64.b64encode(b"no picture").decode()}
    body = {"signature_name": "encode", "instances": [B64, bad, B64]}
    good = {"tokens": [6] * 4, "error": ""}
    refused = {"tokens": [-1] * 4, "error": "image must be a JPEG, PNG or BMP"}
    assert predict(server, "vit_vqgan", body) == (200, {"predictions": [good, refused, good]})
    # Not by the JSON standard, and as TF Serving writes it.
    _, answer = predict(server, "vim", {"signature_name": "features", "inputs": [bad]})
    assert np.isnan(answer["outputs"]["features"]).all()


def test_multiple_outputs_are_objects_and_bytes_are_base64(server):
    status, rows = predict(server, "vim", {"signature_name": "generate", "instances": [ROW, ROW]})
    assert status == 200
    assert [row["tokens"] for row in rows["predictions"]] == [[14] * 4] * 2
    status, columns = predict(server, "vim", {"signature_name": "generate", "inputs": COLUMNS})
    assert status == 200
    assert columns["outputs"]["tokens"] == [[14] * 4]
    assert columns["outputs"]["image_bytes"] == [rows["predictions"][0]["image_bytes"]]
    png = base64.b64decode(columns["outputs"]["image_bytes"][0]["b64"])
    assert np.all(tf.io.decode_png(png).numpy() == 238)  # 14/15 of 255


def test_default_signature_is_used_without_signature_name(server):
    example = tf.train.Example()
    example.features.feature["image/encoded"].bytes_list.value.append(base64.b64decode(B64["b64"]))
    content = base64.b64encode(example.SerializeToString()).decode()
    status, answer = predict(server, "vit_vqgan", {"instances": [{"b64": content}]})
    assert (status, answer) == (200, {"predictions": [{"tokens": [6] * 4, "error": ""}]})


def test_metadata_is_an_answer_a_row(server):
    status, answer = predict(server, "vim", DESCRIBE)
    assert status == 200
    assert Metadata.from_json(answer["outputs"][0]) == stand_ins.metadata("generator")


@pytest.mark.parametrize("where", ["", "/versions/17", "/labels/stable"])
def test_status_metadata_and_predict_take_versions_and_labels(server, where):
    status, answer = ask(server, "GET", f"/v1/models/vim{where}")
    assert status == 200
    assert answer["model_version_status"] == [
        {"version": "17", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
    status, answer = ask(server, "GET", f"/v1/models/vim{where}/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "vim", "signature_name": "", "version": "17"}
    inputs = answer["metadata"]["signature_def"]["signature_def"]["score"]["inputs"]
    assert {name: info["dtype"] for name, info in inputs.items()} == {
        "image_bytes": "DT_STRING",
        "class_id": "DT_INT32",
    }
    status, _ = ask(server, "POST", f"/v1/models/vim{where}:predict", {**GENERATE, "instances": [ROW]})
    assert status == 200


def test_keys_that_are_unknown_are_ignored_as_tf_serving_does(server):
    assert predict(server, "vim", {**GENERATE, "instances": [ROW], "signature": "score"})[0] == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "JSON"),
        (b"[" * 100_000, "JSON"),
        ([], "instances"),
        ({}, "instances"),
        ({"instances": [], "inputs": {}}, "one of"),
        ({"instances": []}, "at least one"),
        ({"instances": [ROW], "signature_name": 7}, "signature_name"),
        ({"instances": [ROW], "signature_name": "paint"}, "generate"),
        ({**GENERATE, "instances": [{**ROW, "size": 1}]}, "class_id"),
        ({**GENERATE, "instances": [ROW, {"seed": 1}]}, "instance 1"),
        ({**GENERATE, "instances": [1]}, "class_id"),
        ({**GENERATE, "instances": [{**ROW, "class_id": 1.5}]}, "int32"),
        ({**GENERATE, "instances": [{**ROW, "class_id": "one"}]}, "int32"),
        ({**GENERATE, "instances": [{**ROW, "class_id": 2**40}]}, "2147483647"),
        ({**GENERATE, "instances": [{**ROW, "class_id": True}]}, "int32"),
        ({**GENERATE, "instances": [{**ROW, "class_id": 3}]}, "[0, 3)"),
        ({**GENERATE, "instances": [{**ROW, "class_id": [1]}]}, "must be int32 [?]"),
        ({**GENERATE, "inputs": {**COLUMNS, "seed": [[1], [2, 3]]}}, "differ in length"),
        ({**GENERATE, "inputs": {**COLUMNS, "seed": [1, 2]}}, "rows"),
        ({"signature_name": "features", "inputs": [{"b64": "?"}]}, "b64"),
        ({"signature_name": "features", "inputs": [7]}, "b64"),
        ({**GENERATE, "instances": [ROW, {**ROW, "top_k": -1}]}, "got another in row 1"),
        ({"signature_name": "metadata", "instances": [{}]}, "rows"),
    ],
)  # fmt: skip
def test_invalid_body_is_400_with_one_line_error(server, body, said):
    status, answer = predict(server, "vim", body)
    assert status == 400, answer
    assert set(answer) == {"error"}
    assert said in answer["error"]
    assert "\n" not in answer["error"]


def encode(server, content):
    body = {"signature_name": "encode", "instances": [{"b64": base64.b64encode(content).decode()}]}
    return predict(server, "vit_vqgan", body)


def test_served_signature_sees_what_people_see(server):
    lying = np.zeros([16, 16, 3], np.uint8)
    lying[:, :8] = 255  # white beside black, shown as white above black
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = encode(server, encoded(lying.transpose(1, 0, 2), "PNG"))
    assert upright == (200, {"predictions": [{"tokens": [15, 15, 0, 0], "error": ""}]})
    for encoding in ("JPEG", "PNG"):
        assert encode(server, encoded(lying, encoding, exif=exif)) == upright
    for kind in ("PNG, transparent", "PNG, 2 bits, transparent", "PNG, 16 bits", "BMP, palette"):
        shown = encoded(FILES[kind].pixels.astype(np.uint8), "PNG")
        assert encode(server, FILES[kind].content) == encode(server, shown), kind


@pytest.mark.parametrize(
    "kind", ["WebP", "JPEG, CMYK", "PNG, linear light", "BMP, 1 bit", "PNG, broken profile"]
)
def test_served_signature_refuses_what_it_would_misread(server, kind):
    status, answer = encode(server, FILES[kind].content)
    assert status == 200
    assert answer["predictions"][0]["error"].startswith(FILES[kind].refusal)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/models/vom", 404),
        ("GET", "/v1/models/vim/versions/1", 404),
        ("GET", "/v1/models/vim/labels/canary", 404),
        ("GET", "/v1/models/vim/versions/new", 400),
        ("GET", "/v1/models/..%2fvim", 404),
        ("GET", "/v3", 404),
        ("GET", "/v1/models/vim:predict", 405),
        ("DELETE", "/v1/models/vim", 405),
    ],
)
def test_unknown_path_or_method_returns_an_error_object(server, method, path, expected):
    status, answer = ask(server, method, path)
    assert (status, set(answer)) == (expected, {"error"})


def test_body_above_the_limit_is_413(base):
    with background_server(str(base), Options(limits=Limits(max_message_bytes=1000))) as server:
        status, answer = predict(server, "vim", {"inputs": "x" * 1000})
    assert (status, answer) == (413, {"error": "body must be at most 1000 bytes"})
