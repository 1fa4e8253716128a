import numpy as np
import pytest

from components.metrics import distances
from components.metrics.manifold import manifold


def pair_by_pair(samples, real):
    """The four shares, by their definitions."""

    def radius(vectors, k):
        return np.array([sorted(np.linalg.norm(vectors - one, axis=1))[k] for one in vectors])

    between = np.linalg.norm(samples[:, np.newaxis] - real, axis=2)
    of_real, wide, of_samples = radius(real, 3), radius(real, 5), radius(samples, 3)
    return (
        (between <= of_real).any(axis=1).mean(),
        (between <= of_samples[:, np.newaxis]).any(axis=0).mean(),
        (between <= wide).sum(axis=1).mean() / 5,
        (between.min(axis=0) <= wide).mean(),
    )


@pytest.mark.parametrize("block", [2000, 7])
def test_shares_are_those_of_their_definitions(monkeypatch, block):
    monkeypatch.setattr(distances, "BLOCK", block)
    generator = np.random.default_rng(1)
    samples, real = generator.normal(1.0, 0.7, size=(40, 3)), generator.normal(size=(53, 3))
    assert manifold(samples, real) == pytest.approx(pair_by_pair(samples, real))


def test_far_from_the_origin_nothing_cancels():
    generator = np.random.default_rng(2)
    samples, real = generator.normal(size=(2, 60, 3))
    there = manifold((samples + 1e6), (real + 1e6))
    assert there == pytest.approx(manifold(samples, real), abs=0.02)


def test_samples_of_one_mode_are_precise_and_do_not_cover():
    generator = np.random.default_rng(3)
    real = np.concatenate([generator.normal(mean, 0.1, size=(300, 2)) for mean in (0.0, 5.0)])
    found = manifold(generator.normal(0.0, 0.1, size=(300, 2)), real)
    assert found.precision > 0.9
    assert found.recall == pytest.approx(0.5, abs=0.05)
    assert found.coverage == pytest.approx(0.5, abs=0.05)
    assert found.density == pytest.approx(1.0, abs=0.15)


def test_the_same_set_is_all_precise_and_recalled():
    real = np.random.default_rng(4).normal(size=(100, 5))
    found = manifold(real, real)
    assert (found.precision, found.recall, found.coverage) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("samples", [np.zeros((5, 2)), np.full((9, 2), np.nan)])
def test_without_neighbourhoods_there_are_no_shares(samples):
    assert np.isnan(manifold(samples, np.random.default_rng(0).normal(size=(9, 2)))).all()
