import re

import pytest
import tensorflow as tf

from serving.export.signatures import row_check
from serving.wire.errors import LONGEST, invalid, one_line


@tf.function
def checked(x):
    with tf.control_dependencies([tf.debugging.assert_less(x, 3, "x must be in [0, 3)")]):
        return tf.io.decode_image(tf.strings.as_string(x))


@pytest.mark.parametrize(
    ("x", "said"),
    # TensorFlow 2.21 reads, and names, more formats.
    [
        (5, r"x must be in \[0, 3\)"),
        (1, r"Unknown image file format\. One of JPEG, (JPEG XL, )?PNG, .* required\."),
    ],
)
def test_graph_error_is_reduced_to_its_reason(x, said):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        checked(tf.constant(x))
    assert "\n" in str(caught.value)
    assert re.fullmatch(said, one_line(caught.value))


def test_the_row_of_a_check_is_part_of_the_reason():
    @tf.function
    def checked(x):
        with tf.control_dependencies([row_check(x < 3, "x must be in [0, 3)")]):
            return tf.identity(x)

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        checked(tf.constant([0, 1, 5, 7]))
    assert one_line(caught.value) == "x must be in [0, 3), got another in row 2"


def test_error_without_message_becomes_its_type_name():
    assert one_line(KeyError()) == "KeyError"
    assert one_line(OSError("\n  it broke\nhere and there")) == "it broke"


def test_first_of_several_errors_of_a_step_is_its_reason():
    message = (
        "Graph execution error:\n\nDetected at node IteratorGetNext defined at (most recent call last):\n"
        "<stack traces unavailable>\nDetected at node while/Next defined at (most recent call last):\n"
        "<stack traces unavailable>\n2 root error(s) found.\n"
        "  (0) DATA_LOSS:  truncated record at 100584' failed with EOF\n\t [[{{node IteratorGetNext}}]]\n"
        "\t [[while/IteratorGetNext/_8]]\n  (1) DATA_LOSS:  truncated record at 7' failed with EOF\n"
        "0 successful operations.\n0 derived errors ignored. [Op:__inference_several_122]"
    )
    error = tf.errors.DataLossError(None, None, message)
    assert one_line(error) == "truncated record at 100584' failed with EOF"


def test_error_of_a_beam_worker_is_reduced_to_its_reason():
    wrapped = "tensorflow.python.framework.errors_impl.ResourceExhaustedError: /x; No space left on device"
    error = RuntimeError(f"{wrapped} [while running 'Write/ParDo(_Write)']")
    assert one_line(error) == "/x; No space left on device"
    assert one_line(ValueError("image: x.y")) == "image: x.y"


def test_an_answered_error_is_one_line_of_bounded_length_whatever_was_given():
    message = invalid("got 'a\nb\ud800\x00é'").message
    assert message == r"got 'a\nb\ud800\x00é'"
    message.encode()
    for given in ("x", "é", "\U0001f600", "\x00", "\U000e0001"):
        answered = invalid(given * 10**6).message
        assert LONGEST - 9 < len(answered.encode()) < LONGEST + 9
        assert answered.endswith("...")
