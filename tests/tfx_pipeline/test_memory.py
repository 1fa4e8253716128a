import numpy as np
import pytest

from tfx_pipeline import memory


def test_the_peak_is_that_since_the_reset():
    if not memory.reset_peak():
        pytest.skip("this system does not let a process reset its peak")
    before = memory.peak()
    held = np.ones(2**28, np.uint8)
    assert memory.peak() - before == pytest.approx(held.nbytes, rel=0.1)
    del held
    memory.reset_peak()
    assert memory.peak() - before < 2**27
