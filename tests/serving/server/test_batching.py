import numpy as np
import pytest
import tensorflow as tf

from serving.server.batching import Batching, Call, bytes_of, joined, read_parameters, split
from serving.server.servable import Signature
from serving.wire.errors import RequestError, ServingError

ROWS = Signature("rows", {"x": tf.TensorSpec([None, 2], tf.int32)}, {"y": tf.TensorSpec([None], tf.int32)})


def call(*values, signature=ROWS, outputs=("y",)) -> Call:
    return Call(None, signature, {"x": np.array(values, np.int32)}, outputs)


def test_rows_are_joined_in_order_and_answers_split_again():
    calls = [call([1, 2]), call([3, 4], [5, 6]), call()]
    calls[2] = calls[2]._replace(inputs={"x": np.zeros([0, 2], np.int32)})
    whole = joined(calls, Batching())
    assert whole.inputs["x"].tolist() == [[1, 2], [3, 4], [5, 6]]
    answers = split({"y": np.array([7, 8, 9])}, calls, 3)
    assert [answer["y"].tolist() for answer in answers] == [[7], [8, 9], []]


def test_an_answer_does_not_keep_the_whole_batch_in_memory():
    (first, _) = split({"y": np.zeros([1000])}, [call([1, 2]), call([3, 4])], 1000)
    assert first["y"].base is None


def test_an_output_of_other_rows_is_whole_for_a_call_alone_and_refused_for_several():
    (alone,) = split({"y": np.arange(5)}, [call([1, 2])], 1)
    assert alone["y"].tolist() == [0, 1, 2, 3, 4]
    for calls, sent in (([call([1, 2])] * 2, 2), ([call([1, 2])], 4)):
        with pytest.raises(RequestError, match="output y must have a row for each of the inputs"):
            split({"y": np.arange(5)}, calls, sent)


def test_a_batch_is_filled_up_to_an_allowed_size_with_copies_of_its_last_row():
    rules = Batching(max_batch_size=8, allowed_batch_sizes=(2, 4, 8))
    whole = joined([call([1, 2], [3, 4]), call([5, 6])], rules)
    assert whole.inputs["x"].tolist() == [[1, 2], [3, 4], [5, 6], [5, 6]]
    assert [rules.padded(rows) for rows in (1, 2, 5, 8, 20)] == [2, 2, 8, 8, 20]


def test_only_wanted_outputs_are_asked_and_each_call_gets_its_own():
    both = Signature("both", ROWS.inputs, {**ROWS.outputs, "z": tf.TensorSpec([None], tf.int32)})
    calls = [call([1, 2], signature=both, outputs=("z",)), call([3, 4], signature=both, outputs=("y",))]
    assert joined(calls, Batching()).outputs == ("y", "z")
    answers = split({"y": np.array([1, 2]), "z": np.array([3, 4])}, calls, 2)
    assert [list(answer) for answer in answers] == [["z"], ["y"]]


def test_calls_share_a_batch_only_with_the_same_signature_and_sizes():
    assert call([1, 2]).key == call([3, 4], [5, 6]).key
    assert call([1, 2]).key != call([1, 2, 3]).key
    other = Signature("other", ROWS.inputs, ROWS.outputs)
    assert call([1, 2]).key != call([1, 2], signature=other).key


@pytest.mark.parametrize(
    ("inputs", "outputs", "has_rows"),
    [([None], [None], True), ([None], [], False), ([3], [None], False), (None, [None], False)],
)
def test_a_signature_has_rows_if_all_its_tensors_have(inputs, outputs, has_rows):
    given = {} if inputs is None else {"x": tf.TensorSpec(inputs, tf.int32)}
    assert Signature("s", given, {"y": tf.TensorSpec(outputs, tf.int32)}).has_rows == has_rows


def test_memory_of_strings_is_counted():
    assert bytes_of({"x": np.array([b"abc", b"de"], object), "y": np.zeros(3, np.int32)}) == 16 + 5 + 12


def test_the_parameters_file_of_tf_serving_is_read(tmp_path):
    path = tmp_path / "batching.txt"
    path.write_text(
        "max_batch_size { value: 32 }\n"
        "batch_timeout_micros { value: 2000 }\n"
        "num_batch_threads { value: 2 }\n"
        "thread_pool_name { value: 'shared' }\n"
        "allowed_batch_sizes: 8\nallowed_batch_sizes: 32\n"
    )
    assert read_parameters(str(path)) == Batching(
        max_batch_size=32, batch_timeout_micros=2000, num_batch_threads=2, allowed_batch_sizes=(8, 32)
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("max_batch_sizes { value: 1 }", r"must hold a BatchingParameters, got .*max_batch_sizes"),
        ("max_batch_size { value: 0 }", r"max_batch_size must be at least 1, got 0"),
        (
            "max_batch_size { value: 9 } allowed_batch_sizes: 4",
            r"allowed_batch_sizes must rise and end with max_batch_size 9, got 4",
        ),
    ],
)
def test_wrong_parameters_are_one_line(tmp_path, text, line):
    path = tmp_path / "batching.txt"
    path.write_text(text)
    with pytest.raises(ServingError, match=line):
        read_parameters(str(path))
    with pytest.raises(ServingError, match="must hold a BatchingParameters, got"):
        read_parameters(str(tmp_path / "missing.txt"))
