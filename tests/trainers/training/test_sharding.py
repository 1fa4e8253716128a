"""Stage 1 of ZeRO is the unsharded step, whatever the number of devices."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainers.training.sharding import sharded_variable

pytestmark = pytest.mark.slow


def test_value_of_another_shape_is_refused():
    variable = sharded_variable(tf.range(6.0), "weight")
    variable.assign(np.arange(6.0)[::-1])
    np.testing.assert_array_equal(variable.numpy(), [5, 4, 3, 2, 1, 0])
    with pytest.raises(ValueError, match=r"value must have the shape \(6,\), got \(2, 3\)"):
        variable.assign(np.zeros([2, 3]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """By programs of their own, because logical devices are set up once a process."""
    folder = tmp_path_factory.mktemp("sharded")
    for devices in ("4", "2"):
        program = [sys.executable, "-m", "tests.trainers.training.sharded", str(folder), devices]
        done = subprocess.run(program, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", ["shards", "shards-2-1", "shards-1-1", "shards-4-0", "whole-4-1"])
def test_sharded_slots_and_averages_equal_unsharded_ones(trained, name):
    with np.load(trained / "whole.npz") as whole, np.load(trained / f"{name}.npz") as other:
        assert whole.files == other.files
        for key in whole.files:
            np.testing.assert_allclose(other[key], whole[key], rtol=1e-6, atol=1e-7, err_msg=key)


def test_replica_keeps_its_share_of_what_is_trained(trained):
    kept, whole = json.loads((trained / "sizes.json").read_text())
    # Two slots and an average of 7 x 5, 5 and 5 x 1 weights: shares of 9, 2 and 2 on each of 4 replicas. The
    # average of what is not trained is whole on each.
    assert whole == 3 * (35 + 5 + 5)
    assert kept == 3 * (9 + 2 + 2)
