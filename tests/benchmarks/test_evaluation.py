import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import evaluation


def test_moments_are_of_as_many_rows_as_asked():
    pool = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    assert evaluation.moments_of(1000, pool).count == 1000


def test_one_table_has_every_computation(monkeypatch):
    monkeypatch.setattr(evaluation, "SIDE", 64)
    done = CliRunner().invoke(
        evaluation.main, ["--images", "300", "--dimensions", "8", "--neighbours-dimensions", "4"]
    )
    if "must let a process reset" in done.output:
        pytest.skip("this system does not let a process reset its peak")
    assert done.exit_code == 0, done.output
    for what in ("moments, 300 x 8", "Frechet distance", "its interval", "KID", "precision, recall"):
        assert what in done.output
