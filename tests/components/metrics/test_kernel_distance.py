import numpy as np
import pytest

from components.metrics import kernel_distance as module
from components.metrics.kernel_distance import clip_mmd, kernel_distance


def pairs(a, b):
    """The unbiased estimate, pair by pair."""

    def kernel(x, y):
        return (x @ y / len(x) + 1.0) ** 3

    size = len(a)
    within = [
        np.mean([kernel(s[i], s[j]) for i in range(size) for j in range(size) if i != j]) for s in (a, b)
    ]
    return sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b])


def test_it_is_the_unbiased_estimate_over_all_pairs():
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(7, 3)), generator.normal(0.5, 2.0, size=(7, 3))
    # With all vectors in each subset, whose order does not count.
    found = kernel_distance(a, b, subsets=3)
    assert found.mean == pytest.approx(pairs(a, b), rel=1e-12)
    assert np.isnan(found.deviation)


def test_its_mean_does_not_depend_on_the_number_of_vectors():
    generator = np.random.default_rng(2)
    a, b = generator.normal(size=(4000, 4)), generator.normal(0.3, 1.0, size=(4000, 4))
    few = kernel_distance(a, b, subset_size=50, subsets=400)
    many = kernel_distance(a, b, subset_size=1000, subsets=40)
    assert few.mean == pytest.approx(many.mean, abs=4 * few.deviation / 20)
    assert few.deviation > 3 * many.deviation


def test_two_halves_of_one_distribution_have_none():
    a, b = np.random.default_rng(3).normal(size=(2, 3000, 8))
    found = kernel_distance(a, b)
    assert abs(found.mean) < 2 * found.deviation


def test_a_seed_gives_the_same_subsets():
    a, b = np.random.default_rng(4).normal(size=(2, 300, 4))
    first, again, other = (kernel_distance(a, b, seed=seed, subset_size=50) for seed in (5, 5, 6))
    assert first == again != other


@pytest.mark.parametrize("b", [np.zeros((1, 2)), np.array([[0.0, np.nan], [1.0, 1.0]])])
def test_without_two_finite_vectors_it_is_nan(b):
    assert np.isnan(kernel_distance(np.zeros((5, 2)), b)).all()


def test_cmmd_is_the_mean_over_all_pairs_of_directions(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 3)
    generator = np.random.default_rng(5)
    a, b = generator.normal(size=(7, 4)), generator.normal(1.0, 2.0, size=(5, 4))

    def mean(first, second):
        values = []
        for x in first:
            for y in second:
                step = x / np.linalg.norm(x) - y / np.linalg.norm(y)
                values.append(np.exp(-(step @ step) / 200.0))
        return np.mean(values)

    expected = 1000.0 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))
    assert clip_mmd(a, b) == pytest.approx(expected, rel=1e-9)
    assert clip_mmd(a, 3.0 * a) == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(clip_mmd(a, np.full((2, 4), np.nan)))
    assert np.isnan(clip_mmd(a, b[:0]))
