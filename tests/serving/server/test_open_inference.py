"""The Open Inference Protocol, asked by Triton's client and by hand."""

import base64
import json
import urllib.error
import urllib.request

import numpy as np
import pytest

from serving.cli import files
from serving.client import queries
from serving.client.connect import connect
from serving.export.sampling_params import SamplingParams
from serving.export.standard_image import to_pixels
from serving.server.access import Access
from serving.server.server import Options, background_server
from tests import stand_ins

triton = pytest.importorskip("tritonclient.http", reason="tritonclient is in the lock of lane A alone")
pytestmark = pytest.mark.slow

PICTURE = files.png(np.full((8, 8, 3), 102, np.uint8))
DTYPES = {"INT32": np.int32, "INT64": np.int64, "FP32": np.float32, "BYTES": object}


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.http.removeprefix("http://")) as client:
        yield client


def inputs_of(arrays, binary=True):
    found = []
    for name, array in arrays.items():
        kind = next(kind for kind, dtype in DTYPES.items() if array.dtype == dtype)
        found.append(triton.InferInput(name, list(array.shape), kind))
        found[-1].set_data_from_numpy(array, binary_data=binary)
    return found


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("vim.generate")
    assert client.is_model_ready("vim", "17")
    assert not client.is_model_ready("vim", "16")
    assert not client.is_model_ready("vim.paint")
    assert client.get_server_metadata()["name"] == "tfx-vim"
    metadata = client.get_model_metadata("vit_vqgan.encode")
    assert (metadata["name"], metadata["versions"]) == ("vit_vqgan.encode", ["3"])
    assert metadata["inputs"] == [{"name": "image_bytes", "datatype": "BYTES", "shape": [-1]}]
    tokens = {"name": "tokens", "datatype": "INT32", "shape": [-1, stand_ins.TOKENS]}
    assert tokens in metadata["outputs"]
    assert client.get_model_metadata("vit_vqgan")["inputs"][0]["name"] == "examples"


@pytest.mark.parametrize("binary", [True, False])
def test_images_are_drawn_as_by_our_own_client(client, server, binary):
    params = SamplingParams(seed=3)
    arrays = params.inputs(np.array([0, 2]), np.array([3, 4]))
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("tokens", "image_bytes")]
    answer = client.infer("vim.generate", inputs_of(arrays, binary), outputs=wanted, request_id="seven")
    with connect(server.grpc) as own:
        images, tokens = queries.generate(own, [0, 2], params)
    np.testing.assert_array_equal(answer.as_numpy("tokens"), tokens)
    pictures = answer.as_numpy("image_bytes").tolist()
    if not binary:
        pictures = [base64.b64decode(one) for one in pictures]
    np.testing.assert_array_equal([np.asarray(to_pixels(one)) for one in pictures], images)
    assert answer.get_response()["id"] == "seven"
    assert answer.get_response()["model_version"] == "17"


def test_a_bad_image_fails_alone(client):
    arrays = {"image_bytes": np.array([PICTURE, b"no picture"], object)}
    answer = client.infer("vit_vqgan.encode", inputs_of(arrays))
    assert answer.as_numpy("tokens").tolist() == [[6] * 4, [-1] * 4]
    assert answer.as_numpy("error").tolist() == [b"", b"image must be a JPEG, PNG or BMP"]


@pytest.mark.parametrize(
    ("model", "version", "arrays", "message"),
    [
        ("vom", "", {}, "model must be one of classifier, vim, vit_vqgan, got 'vom'"),
        ("vim.paint", "", {}, "signature of vim must be one of complete"),
        ("vim", "16", {}, "version of vim must be 17, got 16"),
        ("vim.features", "", {"picture": np.zeros(1, np.int32)}, "missing: image_bytes"),
        ("vit_vqgan.decode", "", {"tokens": np.zeros((1, 3), np.int32)}, "tokens must be int32 [?, 4]"),
        ("vit_vqgan.decode", "", {"tokens": np.full((1, 4), 16, np.int32)}, "tokens must be in [0, 16)"),
    ],
)
def test_errors_are_one_line(client, model, version, arrays, message):
    with pytest.raises(triton.InferenceServerException) as error:
        client.infer(model, inputs_of(arrays), version)
    assert message in str(error.value)


def test_plain_json_is_enough(server):
    asked = {"inputs": [{"name": "tokens", "shape": [1, 4], "datatype": "INT32", "data": [6, 6, 6, 6]}]}
    request = urllib.request.Request(
        f"{server.http}/v2/models/vit_vqgan.decode/versions/3/infer", json.dumps(asked).encode()
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        (output,) = json.load(response)["outputs"]
    assert output["parameters"] == {"content_type": "base64"}
    assert (np.asarray(to_pixels(base64.b64decode(output["data"][0]))) == 102).all()


def test_health_needs_no_token_and_the_rest_does(base):
    with background_server(str(base), Options(access=Access(token="a" * 20))) as server:
        for path, expected in (("health/live", 200), ("health/ready", 200), ("models/vim", 401)):
            try:
                with urllib.request.urlopen(f"{server.http}/v2/{path}", timeout=30) as answer:
                    status = answer.status
            except urllib.error.HTTPError as error:
                status = error.code
            assert status == expected
