import numpy as np
import pytest

from components.metrics.frechet import frechet_distance, frechet_distances
from components.metrics.moments import Moments, moments


def gaussian(mean, covariance, count=100):
    return Moments(count, np.asarray(mean, np.float64), np.asarray(covariance, np.float64))


def test_distance_of_a_set_to_itself_is_zero():
    same = moments(np.random.default_rng(0).normal(size=[100, 5]))
    assert frechet_distance(same, same) == pytest.approx(0.0, abs=1e-9)


def test_distance_with_equal_covariances_is_squared_mean_difference():
    covariance = [[2.0, 0.5], [0.5, 1.0]]
    assert frechet_distance(gaussian([0, 0], covariance), gaussian([3, 4], covariance)) == pytest.approx(25.0)


def test_distance_of_commuting_covariances_matches_closed_form():
    # tr(A + B - 2 (AB)^(1/2)) = sum (sqrt a - sqrt b)^2 on a common eigenbasis.
    a, b = gaussian([0, 0], np.diag([4.0, 9.0])), gaussian([0, 0], np.diag([1.0, 25.0]))
    assert frechet_distance(a, b) == pytest.approx((2 - 1) ** 2 + (3 - 5) ** 2)


def test_distance_is_symmetric_and_rotation_invariant():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=[60, 4]) @ rng.normal(size=[4, 4]), rng.normal(size=[50, 4]) + 1
    rotation, _ = np.linalg.qr(rng.normal(size=[4, 4]))
    distance = frechet_distance(moments(x), moments(y))
    assert frechet_distance(moments(y), moments(x)) == pytest.approx(distance)
    assert frechet_distance(moments(x @ rotation), moments(y @ rotation)) == pytest.approx(distance)


def test_distance_is_finite_with_fewer_images_than_features():
    rng = np.random.default_rng(2)
    distance = frechet_distance(moments(rng.normal(size=[5, 64])), moments(rng.normal(size=[7, 64])))
    assert np.isfinite(distance)
    assert distance > 0


def test_distance_is_nan_for_one_image_or_non_finite_features():
    good = moments(np.random.default_rng(3).normal(size=[10, 2]))
    assert np.isnan(frechet_distance(good, moments(np.zeros([1, 2]))))
    assert np.isnan(frechet_distance(good, moments(np.array([[np.nan, 0.0], [1.0, 2.0]]))))


def test_distances_from_one_reference_are_those_taken_one_by_one():
    rng = np.random.default_rng(4)
    reference = moments(rng.normal(size=[50, 3]))
    sets = [moments(rng.normal(size=[size, 3])) for size in (20, 1, 60)]
    expected = [frechet_distance(one, reference) for one in sets]
    np.testing.assert_array_equal(frechet_distances(sets, reference), expected)
    assert np.isnan(frechet_distances(sets, moments(np.zeros([1, 3])))).all()
