import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.export.metadata import Metadata
from tests import stand_ins

pytestmark = pytest.mark.slow

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel:
        yield channel


@pytest.fixture(scope="module")
def predictor(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def generation(**changed):
    inputs = {
        "class_id": np.array([0, 2], np.int32),
        "seed": np.array([1, 2], np.int64),
        "temperature": np.zeros(2, np.float32),
        "top_k": np.zeros(2, np.int32),
        "top_p": np.ones(2, np.float32),
        "guidance_scale": np.ones(2, np.float32),
    }
    return {**inputs, **changed}


def request(model, signature, inputs, *, version=None, label=None, outputs=()):
    message = predict_pb2.PredictRequest(output_filter=outputs)
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    if version is not None:
        message.model_spec.version.value = version
    if label is not None:
        message.model_spec.version_label = label
    for name, array in inputs.items():
        message.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    return message


@pytest.mark.parametrize("choice", [{}, {"version": 17}, {"label": "stable"}])
def test_predict_uses_the_requested_version_or_label(predictor, choice):
    response = predictor.Predict(request("vim", "generate", generation(), **choice))
    assert tf.make_ndarray(response.outputs["tokens"]).tolist() == [[0] * 4, [14] * 4]
    assert response.model_spec.version.value == 17
    assert response.model_spec.signature_name == "generate"
    assert set(response.outputs) == {"tokens", "image_bytes"}


def test_output_filter_leaves_out_the_other_outputs(predictor):
    response = predictor.Predict(request("vim", "generate", generation(), outputs=["tokens"]))
    assert set(response.outputs) == {"tokens"}


def test_metadata_is_an_answer_a_row(predictor):
    response = predictor.Predict(request("vim", "metadata", {"rows": np.zeros(2, np.int32)}))
    text, same = tf.make_ndarray(response.outputs["metadata"]).tolist()
    assert text == same
    assert Metadata.from_json(text) == stand_ins.metadata("generator")


@pytest.mark.parametrize(
    ("message", "code", "said"),
    [
        (request("vom", "generate", {}), NOT_FOUND, ["vom", "vim", "vit_vqgan"]),
        (request("vim", "generate", generation(), version=16), NOT_FOUND, ["16", "17"]),
        (request("vim", "generate", generation(), label="canary"), NOT_FOUND, ["canary", "stable"]),
        (request("vim", "paint", generation()), INVALID, ["paint", "generate", "score", "features"]),
        (request("vim", "generate", generation(), outputs=["x"]), INVALID, ["x", "tokens"]),
        (request("vim", "features", {}), INVALID, ["missing: image_bytes"]),
        (request("vim", "features", {"picture": np.zeros(1)}), INVALID, ["missing: image_bytes"]),
        (request("vim", "generate", generation(seed=np.zeros(2, np.int32))), INVALID, ["seed", "int32"]),
        (request("vim", "generate", generation(seed=np.zeros((2, 1), np.int64))), INVALID, ["[2, 1]", "[?]"]),
        (request("vim", "generate", generation(seed=np.zeros(3, np.int64))), INVALID, ["rows", "3", "2"]),
        (request("vim", "generate", generation(class_id=np.array([0, 3], np.int32))), INVALID, ["[0, 3)"]),
        (request("vim", "generate", generation(top_p=np.zeros(2, np.float32))), INVALID, ["top_p", "(0, 1]"]),
        (request("vit_vqgan", "decode", {"tokens": np.full((1, 4), 16, np.int32)}), INVALID, ["[0, 16)"]),
        (request("vit_vqgan", "decode", {"tokens": np.zeros((1025, 4), np.int32)}), INVALID, ["1025"]),
    ],
)  # fmt: skip
def test_invalid_request_is_one_line_error_with_given_and_allowed_values(predictor, message, code, said):
    with pytest.raises(grpc.RpcError) as caught:
        predictor.Predict(message)
    assert caught.value.code() is code
    assert "\n" not in caught.value.details()
    assert all(word in caught.value.details() for word in said), caught.value.details()


@pytest.mark.parametrize("shape", [[10**9, 10**9], [-1, 4], [2, 4]])
def test_tensor_with_wrong_number_of_values_is_rejected(predictor, shape):
    message = request("vit_vqgan", "decode", {"tokens": np.zeros((1, 4), np.int32)})
    del message.inputs["tokens"].tensor_shape.dim[:]
    for size in shape:
        message.inputs["tokens"].tensor_shape.dim.add(size=size)
    message.inputs["tokens"].tensor_content = bytes(4)
    with pytest.raises(grpc.RpcError) as caught:
        predictor.Predict(message)
    assert caught.value.code() is INVALID


def test_messages_over_4_mb_are_accepted(predictor):
    noise = np.array([b"x" * 5 * 2**20], object)
    answer = predictor.Predict(request("vit_vqgan", "encode", {"image_bytes": noise}))
    # Refused because it is no image, not for its size.
    assert answer.outputs["error"].string_val == [b"image must be a JPEG, PNG or BMP"]


def test_expired_deadline_is_deadline_exceeded(predictor):
    many = {name: np.resize(values, 1000) for name, values in generation().items()}
    with pytest.raises(grpc.RpcError) as caught:
        predictor.Predict(request("vim", "generate", many), timeout=0.01)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_metadata_returns_the_saved_signatures(predictor):
    message = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = "vit_vqgan"
    response = predictor.GetModelMetadata(message)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert response.model_spec.version.value == 3
    assert set(signatures.signature_def) == {
        "encode", "encode_pixels", "decode", "decode_pixels", "reconstruct", "neighbors", "metadata",
        "serving_default",
    }  # fmt: skip
    sizes = [dim.size for dim in signatures.signature_def["decode"].inputs["tokens"].tensor_shape.dim]
    assert sizes == [-1, stand_ins.TOKENS]


def test_unknown_metadata_field_is_rejected(predictor):
    message = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["weights"])
    message.model_spec.name = "vim"
    with pytest.raises(grpc.RpcError) as caught:
        predictor.GetModelMetadata(message)
    assert caught.value.code() is INVALID
    assert "weights" in caught.value.details()


def test_status_reports_the_served_version(channel):
    message = get_model_status_pb2.GetModelStatusRequest()
    message.model_spec.name = "vim"
    (status,) = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(message).model_version_status
    assert (status.version, status.state) == (17, get_model_status_pb2.ModelVersionStatus.AVAILABLE)
    assert status.status.error_code == 0


def test_status_of_unknown_version_is_not_found(channel):
    message = get_model_status_pb2.GetModelStatusRequest()
    message.model_spec.name = "vim"
    message.model_spec.version.value = 1
    with pytest.raises(grpc.RpcError) as caught:
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(message)
    assert caught.value.code() is NOT_FOUND
