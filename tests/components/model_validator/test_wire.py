"""Answers of a server are held against those of this process."""

import numpy as np
import pytest
import tensorflow as tf

from components.model_validator import wire
from components.model_validator.answers import WrongAnswerError

ROWS = {"x": tf.constant([1, 2])}
ANSWER = {"tokens": tf.constant([[3], [4]]), "features": tf.constant([[1.0], [2.0]])}


class Answering:
    """A client whose server answers what it was given."""

    def __init__(self, answer):
        self._answer = answer

    def predict(self, model, signature, inputs):
        assert (model, signature) == (wire.MODEL, "encode")
        np.testing.assert_array_equal(inputs["x"], [1, 2])
        return self._answer


def test_last_bits_of_floats_may_differ():
    answer = {"tokens": np.array([[3], [4]], np.int32), "features": np.array([[1.00001], [2.0]], np.float32)}
    wire.check(Answering(answer), "encode", ROWS, ANSWER)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokens": np.array([[3], [5]], np.int32)}, "tokens from a server must be that of this process"),
        ({"features": np.array([[1.001], [2.0]], np.float32)}, "features from a server must be that of"),
        ({"features": np.array([[1.0]], np.float32)}, "features from a server must be that of"),
        ({"more": np.zeros(2)}, "outputs must be .*'features', 'tokens'.* from a server too, got"),
    ],
)
def test_another_answer_is_a_reason(change, reason):
    answer = {name: tensor.numpy() for name, tensor in ANSWER.items()} | change
    with pytest.raises(WrongAnswerError, match=reason):
        wire.check(Answering(answer), "encode", ROWS, ANSWER)


def picture(level):
    return tf.io.encode_png(tf.fill([2, 2, 3], tf.constant(level, tf.uint8))).numpy()


@pytest.mark.parametrize(("level", "alike"), [(8, True), (9, True), (7, True), (10, False), (None, False)])
def test_a_pixel_may_be_rounded_to_the_next_level(level, alike):
    got = b"no picture" if level is None else picture(level)
    answer = {"image_bytes": tf.constant([picture(8)])}
    client = Answering({"image_bytes": np.array([got], object)})
    if alike:
        wire.check(client, "encode", ROWS, answer)
    else:
        with pytest.raises(WrongAnswerError, match="image_bytes from a server must be that of this process"):
            wire.check(client, "encode", ROWS, answer)
