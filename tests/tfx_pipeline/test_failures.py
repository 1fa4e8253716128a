import pytest
import tensorflow as tf

from components.dataset import TooManyBroken
from tfx_pipeline import failures


def raised(*errors: Exception) -> BaseException:
    """The last of the errors, each raised from the one before it."""
    cause = None
    for error in errors:
        error.__cause__ = cause
        cause = error
    return errors[-1]


def test_innermost_error_is_the_reason():
    assert (
        failures.reason(raised(OSError("no space left"), RuntimeError("executor failed"))) == "no space left"
    )


def test_own_error_is_the_reason_and_not_what_caused_it():
    own = TooManyBroken("broken images must be at most 1.0%")
    assert failures.reason(raised(KeyError("x"), own, RuntimeError("executor failed"))) == str(own)


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9,9]"),
        MemoryError("OOM when allocating tensor with shape[9,9]"),
    ],
)
def test_exhausted_memory_says_what_to_lower(error):
    assert failures.reason(raised(error, RuntimeError("executor failed"))) == (
        "memory must hold a batch: lower the component's batch_size, "
        "got OOM when allocating tensor with shape[9,9]"
    )


@pytest.mark.parametrize("text", ["/tmp/ckpt-5; No space left on device", "x; Too many open files"])
def test_full_disk_is_no_matter_of_memory(text):
    error = tf.errors.ResourceExhaustedError(None, None, text)
    assert failures.reason(raised(error, RuntimeError("executor failed"))) == text
