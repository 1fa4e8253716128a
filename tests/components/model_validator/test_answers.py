"""Check answers against the contract of the signatures; errors name the wrong output."""

import pytest
import tensorflow as tf

from components.model_validator import answers
from tests import stand_ins

GENERATOR = stand_ins.metadata("generator")
CLASSIFIER = stand_ins.metadata("classifier")


@pytest.mark.parametrize(
    ("signature", "answer", "metadata", "reason"),
    [
        (
            "generate",
            {"tokens": tf.zeros([2, 4], tf.int32)},
            GENERATOR,
            r"must have the outputs \['image_bytes'\]",
        ),
        (
            "extra",
            {"image_bytes": tf.constant(["no PNG", "either"])},
            GENERATOR,
            "image_bytes must be a PNG",
        ),
        (
            "extra",
            {"pixels": tf.fill([2, 8, 8, 3], 1.5)},
            GENERATOR,
            "pixels must be .* got 1.5 to 1.5",
        ),
        ("extra", {"features": tf.fill([2, 3, 4], float("inf"))}, GENERATOR, "features must be finite"),
        ("extra", {"features": tf.zeros([2, 4])}, GENERATOR, "features must be float32"),
        ("extra", {"features": tf.zeros([2, 3, 4])}, CLASSIFIER, "features must be float32"),
        (
            "extra",
            {"logits": tf.zeros([2, 4])},
            CLASSIFIER,
            r"logits must be float32 \[2, 3\], got float32 \(2, 4\)",
        ),
        ("extra", {"log_likelihood": tf.zeros([3])}, GENERATOR, r"must be float32 \[2\], got float32 \(3,\)"),
        (
            "extra",
            {"novel": tf.zeros([3, 5])},
            GENERATOR,
            r"novel must be float32 \[2, None\], got float32 \(3, 5\)",
        ),
    ],
)
def test_invalid_answer_is_rejected_with_a_reason(signature, answer, metadata, reason):
    with pytest.raises(answers.WrongAnswerError, match=reason):
        answers.check(signature, answer, 2, metadata)


def test_valid_answers_and_additional_outputs_pass():
    classes = {"logits": tf.zeros([2, 3]), "probabilities": tf.fill([2, 3], 1 / 3)}
    answers.check("classify", {**classes, "features": tf.zeros([2, 7])}, 2, CLASSIFIER)
    answers.check("extra", {"novel": tf.zeros([2, 5])}, 2, GENERATOR)


def test_last_row_must_be_sampled_alike_alone_and_in_its_batch():
    together = {"tokens": tf.constant([[1, 2], [3, 4]])}
    answers.check_same_draws(together, {"tokens": tf.constant([[3, 4]])})
    with pytest.raises(answers.WrongAnswerError, match="depend on the other rows of its batch"):
        answers.check_same_draws(together, {"tokens": tf.constant([[3, 5]])})
