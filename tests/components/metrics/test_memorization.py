import numpy as np
import pytest

from components.metrics.memorization import NULL, memorization


def test_the_share_is_of_all_pairs():
    samples, held_out = np.array([1.0, 4.0, 2.0]), np.array([3.0, 1.0])
    # Nearer: 1 < 3, 2 < 3; equal, and so half: 1 and 1.
    assert memorization(samples, held_out).share == pytest.approx((2 + 0.5) / 6)


def test_new_samples_are_nearer_in_half_of_the_pairs_and_the_interval_says_how_sure_that_is():
    generator = np.random.default_rng(0)
    trials = [
        memorization(generator.exponential(size=80), generator.exponential(size=50)) for _ in range(300)
    ]
    shares = np.array([one.share for one in trials])
    assert shares.mean() == pytest.approx(NULL, abs=0.01)
    assert np.mean([low <= NULL <= high for _, (low, high) in trials]) == pytest.approx(0.95, abs=0.03)
    widths = [high - low for _, (low, high) in trials]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * shares.std(), rel=0.1)


def test_copies_are_nearer_in_all():
    assert memorization(np.zeros(5), np.ones(5)) == (1.0, (1.0, 1.0))
    half = np.concatenate([np.zeros(50), np.random.default_rng(1).exponential(size=50)])
    share, (low, _) = memorization(half, np.random.default_rng(2).exponential(size=100))
    assert share == pytest.approx(0.75, abs=0.05)
    assert low > NULL


@pytest.mark.parametrize("samples", [np.ones(1), np.array([1.0, np.inf]), np.array([1.0, np.nan])])
def test_without_distances_there_is_no_share(samples):
    assert np.isnan(memorization(samples, np.ones(4)).share)
