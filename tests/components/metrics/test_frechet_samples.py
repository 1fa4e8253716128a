import numpy as np
import pytest

from components.metrics.frechet import frechet_distance
from components.metrics.frechet_samples import extrapolate, interval, split
from components.metrics.moments import Moments, moments

# The exact moments of a standard normal distribution: samples of it have distance 0 in the limit.
EXACT = Moments(10**6, np.zeros(8), np.eye(8))


def samples(count, shift=0.0, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 8)) + shift * np.eye(8)[0]


def test_the_limit_has_no_bias_where_the_distance_has():
    limits, distances = [], []
    for seed in range(20):
        drawn = samples(400, shift=1.0, seed=seed)
        limits.append(extrapolate(drawn, EXACT, seed=seed).limit)
        distances.append(frechet_distance(moments(drawn), EXACT))
    # The distance is 1; of 400 samples it is some 0.05 more.
    assert np.mean(distances) > 1.03
    assert np.mean(limits) == pytest.approx(1.0, abs=0.025)


def test_the_line_ends_with_all_samples_and_depends_on_the_seed_alone():
    drawn = samples(400)
    line = extrapolate(drawn, EXACT, seed=1, points=5)
    assert (line.counts[0], line.counts[-1], len(line.counts)) == (40, 400, 5)
    assert line.distances[-1] == pytest.approx(frechet_distance(moments(drawn), EXACT))
    assert line == extrapolate(drawn, EXACT, seed=1, points=5)
    assert line.limit != extrapolate(drawn, EXACT, seed=2, points=5).limit


def test_there_is_no_line_with_few_samples_or_features_that_are_not_finite():
    assert extrapolate(samples(31), EXACT, seed=0) is None
    assert extrapolate(samples(32), EXACT, seed=0) is not None
    broken = samples(100)
    broken[50, 0] = np.nan
    assert extrapolate(broken, EXACT, seed=0) is None


def test_the_interval_is_as_wide_as_other_samples_move_the_distance():
    distances, widths = [], []
    for seed in range(60):
        drawn = samples(200, shift=1.0, seed=seed)
        distance = frechet_distance(moments(drawn), EXACT)
        low, high = interval(split(drawn, seed=seed), EXACT, distance)
        assert (low + high) / 2 == pytest.approx(distance)
        distances.append(distance)
        widths.append(high - low)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(distances), rel=0.25)


def test_few_samples_have_no_interval():
    assert np.isnan(interval(split(samples(19), seed=0), EXACT, 1.0)).all()
