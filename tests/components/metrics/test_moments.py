import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that

from components.metrics.moments import MomentsFn, merge, moments


def test_moments_match_numpy():
    vectors = np.random.default_rng(0).normal(size=[50, 3])
    measured = moments(vectors)
    assert measured.count == 50
    np.testing.assert_allclose(measured.mean, vectors.mean(axis=0))
    np.testing.assert_allclose(measured.covariance, np.cov(vectors, rowvar=False))


@pytest.mark.parametrize("cuts", [[10], [1, 2, 49], [0, 25, 25, 50]])
def test_moments_do_not_depend_on_merge_order(cuts):
    vectors = np.random.default_rng(1).normal(size=[50, 3])
    fn = MomentsFn()
    parts = [fn.add_input(fn.create_accumulator(), part) for part in np.split(vectors, cuts)]
    left = fn.merge_accumulators([fn.merge_accumulators(parts[:2]), *parts[2:]])
    right = fn.merge_accumulators([*parts[:1], fn.merge_accumulators(parts[1:])])
    for tree in (left, right):
        np.testing.assert_allclose(fn.extract_output(tree).covariance, moments(vectors).covariance)


def test_covariance_is_precise_far_from_the_origin():
    vectors = np.random.default_rng(2).normal(size=[1000, 2])
    far = moments(vectors + 1e8)
    np.testing.assert_allclose(far.covariance, moments(vectors).covariance, rtol=1e-6, atol=1e-6)


def test_float32_batches_are_summed_in_float64():
    vectors = np.full([1000, 1], 0.1, np.float32)
    assert moments(vectors).covariance[0, 0] < 1e-18


def test_one_vector_has_a_mean_and_nan_covariance():
    one = moments(np.array([[1.0, 2.0]]))
    np.testing.assert_array_equal(one.mean, [1.0, 2.0])
    assert np.isnan(one.covariance).all()


def test_merged_sets_have_the_moments_of_all():
    vectors = np.random.default_rng(5).normal(size=[50, 3])
    merged = merge([moments(vectors[:1]), moments(vectors[1:20]), moments(vectors[20:])])
    assert merged.count == 50
    np.testing.assert_allclose(merged.mean, vectors.mean(axis=0))
    np.testing.assert_allclose(merged.covariance, np.cov(vectors, rowvar=False))


def test_beam_combines_batches_of_any_size():
    vectors = np.random.default_rng(3).normal(size=[30, 2])

    def check(results):
        np.testing.assert_allclose(results[0].covariance, np.cov(vectors, rowvar=False))

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        combined = pipeline | beam.Create(np.split(vectors, [3, 20])) | beam.CombineGlobally(MomentsFn())
        assert_that(combined, check)
