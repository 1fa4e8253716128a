import numpy as np
import pytest

from components.metrics.distances import Centred
from components.metrics.neighbours import NOBODY, merge, nearest


@pytest.fixture
def sets():
    generator = np.random.default_rng(0)
    return generator.normal(size=(4, 3)), generator.normal(size=(50, 3))


def test_neighbours_are_the_nearest_of_all_pairs(sets):
    queries, vectors = sets
    found = nearest(Centred(queries), vectors, np.arange(50), 3)
    every = np.square(queries[:, np.newaxis] - vectors).sum(axis=2)
    np.testing.assert_array_equal(found.places, np.argsort(every, axis=1)[:, :3])
    np.testing.assert_allclose(found.distances, np.sort(every, axis=1)[:, :3])


def test_parts_in_any_order_have_the_neighbours_of_the_whole(sets):
    queries, vectors = sets
    whole = nearest(Centred(queries), vectors, np.arange(50), 3)
    parts = [
        nearest(Centred(queries), vectors[rows], rows, 3)
        for rows in np.array_split(np.random.default_rng(1).permutation(50), [1, 3, 30])
    ]
    for order in (parts, parts[::-1], [merge(parts[:2], 3), merge(parts[2:], 3)]):
        joined = merge(order, 3)
        np.testing.assert_array_equal(joined.places, whole.places)
        np.testing.assert_allclose(joined.distances, whole.distances)


def test_of_equal_neighbours_the_first_of_the_set_comes_first():
    found = merge(
        [nearest(Centred(np.zeros((1, 2))), np.ones((2, 2)), np.array(at), 2) for at in ([9, 4], [7, 1])], 2
    )
    assert found.places.tolist() == [[1, 4]]


def test_where_fewer_were_seen_there_is_nobody():
    found = nearest(Centred(np.zeros((2, 2))), np.ones((1, 2)), np.array([5]), 3)
    assert found.places.tolist() == [[5, NOBODY, NOBODY]] * 2
    assert np.isinf(found.distances[:, 1:]).all()
    joined = merge([found, nearest(Centred(np.zeros((2, 2))), np.full((1, 2), 2.0), np.array([3]), 3)], 3)
    assert joined.places.tolist() == [[5, 3, NOBODY]] * 2


def test_vectors_that_are_not_finite_are_infinitely_far():
    vectors = np.array([[np.nan, 0.0], [3.0, 0.0]])
    found = nearest(Centred(np.zeros((1, 2))), vectors, np.arange(2), 2)
    assert found.places.tolist() == [[1, 0]]
    assert found.distances.tolist() == [[9.0, np.inf]]
