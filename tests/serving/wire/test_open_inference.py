import json
import struct

import numpy as np
import pytest

from serving.wire.errors import RequestError
from serving.wire.open_inference import InferRequest


def body(*inputs, **more):
    return json.dumps({"inputs": list(inputs), **more}).encode()


def tensor(name="x", shape=(2,), datatype="INT32", **more):
    return {"name": name, "shape": list(shape), "datatype": datatype, **more}


def parsed(*inputs, rest=b"", **more):
    content = body(*inputs, **more)
    return InferRequest.parse(content + rest, len(content) if rest else None)


def binary(content):
    return {"parameters": {"binary_data_size": len(content)}}


@pytest.mark.parametrize(
    ("datatype", "values", "dtype"),
    [
        ("BOOL", [True, False], np.bool_),
        ("UINT8", [0, 255], np.uint8),
        ("INT32", [-(2**31), 7], np.int32),
        ("INT64", [2**62, -1], np.int64),
        ("FP32", [0.5, -2.25], np.float32),
        ("FP64", [0.1, 1e300], np.float64),
    ],
)
def test_numbers_come_as_json_flat_or_nested_and_as_bytes(datatype, values, dtype):
    expected = np.array(values, dtype)
    content = expected.tobytes()
    for given, rest in (({"data": values}, b""), ({"data": [values]}, b""), (binary(content), content)):
        found = parsed(tensor(shape=(1, 2), datatype=datatype, **given), rest=rest).inputs["x"]
        assert (found.dtype, found.shape) == (dtype, (1, 2))
        np.testing.assert_array_equal(found[0], expected)


def test_strings_come_as_text_as_base64_and_with_their_lengths():
    content = b"".join(struct.pack("<I", len(one)) + one for one in (b"\xff\0", b""))
    plain = parsed(tensor(datatype="BYTES", data=["ü", ""])).inputs["x"]
    assert plain.tolist() == ["ü".encode(), b""]
    base64 = {"data": ["/wA=", ""], "parameters": {"content_type": "base64"}}
    for given, rest in ((base64, b""), (binary(content), content)):
        found = parsed(tensor(datatype="BYTES", **given), rest=rest).inputs["x"]
        assert (found.dtype, found.tolist()) == (object, [b"\xff\0", b""])


def test_binary_tensors_follow_each_other():
    found = parsed(
        tensor("a", (1,), "INT32", **binary(b"abcd")),
        tensor("b", (2,), "UINT8", **binary(b"ef")),
        rest=b"abcdef",
    ).inputs
    assert found["a"].tobytes() + found["b"].tobytes() == b"abcdef"


OUTPUTS = {
    "image_bytes": np.array([b"\xff", b"ab"], object),
    "tokens": np.array([[1, 2], [3, 4]], np.int32),
    "error": np.array([b"", b"no"], object),
}


def test_outputs_are_json_unless_asked_for_as_bytes():
    described, rest = parsed().answer(OUTPUTS)
    assert rest == b""
    assert described == [
        {
            "name": "image_bytes",
            "datatype": "BYTES",
            "shape": [2],
            "data": ["/w==", "YWI="],
            "parameters": {"content_type": "base64"},
        },
        {"name": "tokens", "datatype": "INT32", "shape": [2, 2], "data": [1, 2, 3, 4]},
        {"name": "error", "datatype": "BYTES", "shape": [2], "data": ["", "no"]},
    ]
    wanted = [{"name": "tokens", "parameters": {"binary_data": True}}, {"name": "error"}]
    described, rest = parsed(outputs=wanted).answer(OUTPUTS)
    assert [one["name"] for one in described] == ["tokens", "error"]
    assert described[0]["parameters"] == {"binary_data_size": 16}
    assert np.frombuffer(rest, np.int32).tolist() == [1, 2, 3, 4]
    _, rest = parsed(parameters={"binary_data_output": True}).answer(OUTPUTS)
    assert rest.startswith(b"\1\0\0\0\xff\2\0\0\0ab" + np.int32(1).tobytes())


@pytest.mark.parametrize(
    ("content", "json_bytes", "message"),
    [
        (b"{", None, "body must be JSON"),
        (b"[" * 100_000, None, "body must be JSON"),
        (b"{}", 3, "Inference-Header-Content-Length must be at most 2, got 3"),
        (b"{}", None, "body must be an object with a list of inputs"),
        (b"[]", None, "body must be an object with a list of inputs"),
        (body(outputs=[1]), None, "outputs must be a list of objects"),
        (body(parameters=[]), None, "parameters must be an object"),
        (body({"shape": [1]}), None, "name of input must be a string, got None"),
        (body(tensor(shape=[-1], data=[1])), None, "shape of x must be a list of sizes"),
        (body(tensor(shape=[True], data=[1])), None, "shape of x must be a list of sizes"),
        (body(tensor(datatype="FP16", data=[1, 2])), None, "datatype of x must be one of BOOL, UINT8"),
        (body(tensor(datatype=["INT32"], data=[1, 2])), None, "datatype of x must be one of BOOL, UINT8"),
        (body(tensor()), None, "input x must have data, or binary_data_size"),
        (body(tensor(data=[1, 2, 3])), None, "data of x must have 2 values for its shape, got 3"),
        (body(tensor(shape=[2**62, 2**62], data=[1])), None, "for its shape, got 1"),
        (body(tensor(shape=[1] * 99, data=[1])), None, "shape of x must be one of an array, got 99 sizes"),
        (body(tensor(shape=[2**62] * 100_000, data=[1])), None, "one of an array, got 100000 sizes"),
        (body(tensor(shape=[0, 2**62, 2**62], data=[])), None, "shape of x must be one of an array, got 3"),
        (body(tensor(data=[1.5, 2])), None, "x must be int32, got fractions"),
        (body(tensor(data=[2**40, 2])), None, "x must be from -2147483648"),
        (body(tensor(datatype="BYTES", data=[1, 2])), None, "x must hold strings only"),
        (body(tensor(datatype="BYTES", data=["?"], parameters={"content_type": "base64"})), None, "base64"),
        (body(tensor(data=[1, 2]), tensor(data=[1, 2])), None, "must have different names, got x twice"),
        (body(tensor(**binary(b"12345678"))), None, "binary_data_size must be at most 0, got 8"),
        (body(tensor(parameters={"binary_data_size": -1})), None, "binary_data_size of x must be a number"),
        (body() + b"more", len(body()), "bytes behind the JSON must belong to inputs, got 4 more"),
    ],
)  # fmt: skip
def test_a_wrong_body_is_one_line(content, json_bytes, message):
    with pytest.raises(RequestError) as error:
        InferRequest.parse(content, json_bytes)
    assert message in error.value.message


@pytest.mark.parametrize(
    ("datatype", "rest", "message"),
    [
        ("INT32", b"12345", "binary_data_size of x must be a multiple of 4, got 5"),
        ("INT32", b"1234", "data of x must have 2 values for its shape, got 1"),
        ("BYTES", b"\1\0\0", "each element of x must have its length in front of it"),
        ("BYTES", b"\xff\xff\xff\xffa", "an element of x must be 4294967295 bytes, got 1"),
    ],
)
def test_wrong_bytes_are_one_line(datatype, rest, message):
    with pytest.raises(RequestError) as error:
        parsed(tensor(datatype=datatype, **binary(rest)), rest=rest)
    assert error.value.message == message
