import numpy as np
import pytest

from serving.wire.errors import RequestError
from serving.wire.open_inference_protos import answer, inputs_of, message


def test_messages_are_those_of_tritons_package():
    theirs = pytest.importorskip(
        "tritonclient.grpc.service_pb2", reason="tritonclient is in the lock of lane A alone"
    )

    def fields(descriptor):
        return {
            (one.number, one.name, one.type, one.label, one.message_type and one.message_type.full_name)
            for one in descriptor.fields
        }

    compared = 0
    for name, descriptor in theirs.DESCRIPTOR.message_types_by_name.items():
        try:
            ours = message(name).DESCRIPTOR
        except KeyError:
            continue
        pairs = [(ours, descriptor)]
        pairs += [(one, descriptor.nested_types_by_name[one.name]) for one in ours.nested_types]
        for own, other in pairs:
            assert fields(own) <= fields(other), own.full_name
            # All but the parameters.
            assert {name for _, name, *_ in fields(other) - fields(own)} <= {"parameters"}
            compared += 1
    assert compared == 17


@pytest.mark.parametrize("raw", [True, False])
def test_arrays_of_every_datatype_go_there_and_back(raw):
    arrays = {
        "b": np.array([[True, False]]),
        "u8": np.array([0, 255], np.uint8),
        "i32": np.array([[-(2**31)], [2**31 - 1]], np.int32),
        "i64": np.array([-(2**63), 2**63 - 1]),
        "f32": np.array([np.float32(0.1), np.inf, -0.0], np.float32),
        "f64": np.zeros([2, 0]),
        "text": np.array([b"", b"a\0"], object),
    }
    request = message("ModelInferRequest")(raw_input_contents=[b""] if raw else [])
    there = answer(request, arrays, 1)
    back = message("ModelInferRequest")(
        inputs=[
            {"name": one.name, "datatype": one.datatype, "shape": one.shape, "contents": one.contents}
            for one in there.outputs
        ],
        raw_input_contents=there.raw_output_contents,
    )
    assert len(there.raw_output_contents) == (len(arrays) if raw else 0)
    for name, array in inputs_of(back).items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype == arrays[name].dtype


def test_values_that_do_not_fill_the_shape_are_refused():
    given = {"name": "x", "datatype": "INT32", "shape": [2, 2], "contents": {"int_contents": [1, 2, 3]}}
    with pytest.raises(RequestError, match="data of x must have 4 values for its shape, got 3"):
        inputs_of(message("ModelInferRequest")(inputs=[given]))


def test_numbers_that_do_not_fit_are_refused():
    given = {"name": "u8", "datatype": "UINT8", "shape": [1], "contents": {"uint_contents": [256]}}
    with pytest.raises(RequestError, match=r"contents of u8 must be in \[0, 255\], got 256"):
        inputs_of(message("ModelInferRequest")(inputs=[given]))
