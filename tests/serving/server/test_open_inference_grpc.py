"""The Open Inference Protocol over gRPC, asked by Triton's client and by hand."""

import grpc
import numpy as np
import pytest

from serving.cli import files
from serving.client import queries
from serving.client.connect import connect
from serving.export.sampling_params import SamplingParams
from serving.export.standard_image import to_pixels
from serving.server.access import Access
from serving.server.server import Options, background_server
from serving.wire import open_inference_protos
from serving.wire.open_inference_protos import SERVICE, message
from tests import stand_ins

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is in the lock of lane A alone")
pytestmark = pytest.mark.slow

PICTURE = files.png(np.full((8, 8, 3), 102, np.uint8))
DTYPES = {"INT32": np.int32, "INT64": np.int64, "FP32": np.float32, "BYTES": object}


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.grpc.removeprefix("grpc://")) as client:
        yield client


@pytest.fixture(scope="module")
def ask(server):
    with grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel:
        yield asker(channel)


def asker(channel):
    """Ask a method by hand, with a request as a dict."""

    def ask(name, **fields):
        method = channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=message(f"{name}Response").FromString,
        )
        return method(message(f"{name}Request")(**fields), timeout=30)

    return ask


def inputs_of(arrays):
    found = []
    for name, array in arrays.items():
        kind = next(kind for kind, dtype in DTYPES.items() if array.dtype == dtype)
        found.append(triton.InferInput(name, list(array.shape), kind))
        found[-1].set_data_from_numpy(array)
    return found


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("vim.generate")
    assert client.is_model_ready("vim", "17")
    assert not client.is_model_ready("vim", "16")
    assert not client.is_model_ready("vim", "x")
    assert not client.is_model_ready("vim.paint")
    assert client.get_server_metadata().name == "tfx-vim"
    metadata = client.get_model_metadata("vit_vqgan.encode")
    assert (metadata.name, list(metadata.versions)) == ("vit_vqgan.encode", ["3"])
    (given,) = metadata.inputs
    assert (given.name, given.datatype, list(given.shape)) == ("image_bytes", "BYTES", [-1])
    assert ("tokens", "INT32", [-1, stand_ins.TOKENS]) in [
        (one.name, one.datatype, list(one.shape)) for one in metadata.outputs
    ]


def test_images_are_drawn_as_by_our_own_client(client, server):
    params = SamplingParams(seed=3)
    arrays = params.inputs(np.array([0, 2]), np.array([3, 4]))
    wanted = [triton.InferRequestedOutput(name) for name in ("tokens", "image_bytes")]
    answer = client.infer("vim.generate", inputs_of(arrays), outputs=wanted, request_id="seven")
    with connect(server.grpc) as own:
        images, tokens = queries.generate(own, [0, 2], params)
    np.testing.assert_array_equal(answer.as_numpy("tokens"), tokens)
    pictures = answer.as_numpy("image_bytes").tolist()
    np.testing.assert_array_equal([np.asarray(to_pixels(one)) for one in pictures], images)
    response = answer.get_response()
    assert (response.id, response.model_name, response.model_version) == ("seven", "vim.generate", "17")
    assert [one.name for one in response.outputs] == ["tokens", "image_bytes"]


def test_typed_contents_are_answered_with_typed_contents(ask):
    image = {"name": "image_bytes", "datatype": "BYTES", "shape": [2]}
    answer = ask(
        "ModelInfer",
        model_name="vit_vqgan.encode",
        inputs=[{**image, "contents": {"bytes_contents": [PICTURE, b"no picture"]}}],
    )
    outputs = {one.name: one for one in answer.outputs}
    assert list(outputs["tokens"].contents.int_contents) == [6] * 4 + [-1] * 4
    assert list(outputs["tokens"].shape) == [2, 4]
    errors = list(outputs["error"].contents.bytes_contents)
    assert errors == [b"", b"image must be a JPEG, PNG or BMP"]
    assert not answer.raw_output_contents
    tokens = {"name": "tokens", "datatype": "INT32", "shape": [1, 4]}
    answer = ask(
        "ModelInfer",
        model_name="vit_vqgan.decode",
        model_version="3",
        inputs=[{**tokens, "contents": {"int_contents": [6, 6, 6, 6]}}],
    )
    assert (np.asarray(to_pixels(answer.outputs[0].contents.bytes_contents[0])) == 102).all()


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
TOKENS = {"name": "tokens", "datatype": "INT32", "shape": [1, 4]}


@pytest.mark.parametrize(
    ("model", "given", "code", "said"),
    [
        ("vom", {}, NOT_FOUND, "model must be one of classifier, vim, vit_vqgan, got 'vom'"),
        ("vit_vqgan.paint", {}, INVALID, "signature of vit_vqgan must be one of decode"),
        ("vit_vqgan.decode", {"model_version": "16"}, NOT_FOUND, "version of vit_vqgan must be 3, got 16"),
        ("vit_vqgan.decode", {}, INVALID, "missing: tokens"),
        ("vit_vqgan.decode", {"inputs": [TOKENS, {"name": "x"}]}, INVALID, "x"),
        ("vit_vqgan.decode", {"inputs": [TOKENS, TOKENS]}, INVALID, "got tokens twice"),
        ("vit_vqgan.decode", {"inputs": [{**TOKENS, "shape": [-1, 4]}]}, INVALID, "must be a list of sizes"),
        ("vit_vqgan.decode", {"inputs": [{**TOKENS, "shape": [1] * 10**6}]}, INVALID, "got 33 sizes"),
        ("vit_vqgan.decode", {"inputs": [{**TOKENS, "datatype": "FP8"}]}, INVALID, "datatype of tokens must"),
        (
            "vit_vqgan.decode",
            {"inputs": [{**TOKENS, "contents": {"int64_contents": [1, 2, 3, 4]}}]},
            INVALID,
            "contents of tokens must be int_contents for INT32, got int64_contents",
        ),
        (
            "vit_vqgan.decode",
            {"inputs": [TOKENS], "raw_input_contents": [b"", b""]},
            INVALID,
            "raw_input_contents must be one for each of 1 inputs, got 2",
        ),
        (
            "vit_vqgan.decode",
            {"inputs": [TOKENS], "raw_input_contents": [b"123"]},
            INVALID,
            "must be a multiple of 4, got 3",
        ),
        (
            "vit_vqgan.decode",
            {"inputs": [{**TOKENS, "contents": {"int_contents": [6, 6, 6, 16]}}]},
            INVALID,
            "tokens must be in [0, 16)",
        ),
        (
            "vit_vqgan.decode",
            {
                "inputs": [{**TOKENS, "contents": {"int_contents": [6, 6, 6, 6]}}],
                "outputs": [{"name": "picture"}],
            },
            INVALID,
            "picture",
        ),
    ],
)  # fmt: skip
def test_errors_have_a_status_and_one_line(ask, model, given, code, said):
    with pytest.raises(grpc.RpcError) as error:
        ask("ModelInfer", model_name=model, **given)
    assert error.value.code() is code
    assert said in error.value.details()
    assert "\n" not in error.value.details()


def test_an_output_that_is_named_often_is_answered_once(ask):
    contents = {"int_contents": [6, 6, 6, 6]}
    outputs = [{"name": "pixels"}, {"name": "mu"}] * 1000
    answer = ask(
        "ModelInfer",
        model_name="vit_vqgan.decode_pixels",
        inputs=[{**TOKENS, "contents": contents}],
        outputs=outputs,
    )
    assert [one.name for one in answer.outputs] == ["pixels", "mu"]


def test_values_are_not_read_before_their_shape_fits(ask, monkeypatch):
    monkeypatch.setattr(open_inference_protos, "inputs_of", lambda _: pytest.fail("values were read"))
    many = {"bool_contents": [True] * 1000}
    for wrong, said in (
        ({**TOKENS, "datatype": "BOOL", "contents": many}, "tokens must be int32 [?, 4], got bool [1, 4]"),
        ({**TOKENS, "shape": [2000, 4]}, "must have at most 1024 rows"),
    ):
        with pytest.raises(grpc.RpcError) as error:
            ask("ModelInfer", model_name="vit_vqgan.decode", inputs=[wrong])
        assert said in error.value.details()


def test_health_needs_no_token_and_the_rest_does(base):
    with (
        background_server(str(base), Options(access=Access(token="a" * 20))) as server,
        grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel,
    ):
        ask = asker(channel)
        assert ask("ServerLive").live
        assert ask("ServerReady").ready
        for method in ("ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer"):
            with pytest.raises(grpc.RpcError) as error:
                ask(method)
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
