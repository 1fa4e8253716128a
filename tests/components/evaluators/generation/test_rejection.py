import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that

from components.evaluators.features import Features
from components.evaluators.generation.rejection import KeepLikeliest, LikeliestFn
from components.evaluators.generation.samples import Samples
from components.sampled_set import SamplingPlan
from serving.export.sampling_params import SamplingParams

PLAN = SamplingPlan(5, 2, 0.5, SamplingParams())  # 3 and 2 samples a class, from 6 and 4 candidates


def candidates(indices, wanted):
    """Make images of two alternating classes; the feature of each is its number."""
    indices = np.asarray(indices, np.int64)
    class_ids = (indices % 2).astype(np.int32)
    wanted = np.asarray(wanted, np.float32)
    probabilities = np.where(np.arange(2) == class_ids[:, None], wanted[:, None], 1 - wanted[:, None])
    features = indices[:, None].astype(np.float32)
    return Samples(
        np.arange(len(indices)), indices, class_ids, Features(features, -probabilities), probabilities
    )


ALL = candidates([0, 1, 2, 3, 4, 5, 6, 7, 8, 10], [0.1, 0.9, 0.8, 0.2, 0.7, 0.6, 0.9, 0.5, 0.3, 0.4])


def check(plan, batches, **expected):
    """Check which images of each class are kept; `even`, `odd`: (image numbers, places)."""

    def matches(sets):
        found = {("even", "odd")[one.class_ids[0]]: one for one in sets}
        assert {name: (one.indices.tolist(), one.places.tolist()) for name, one in found.items()} == expected
        for one in sets:  # features stay with their image
            np.testing.assert_array_equal(one.features.features[:, 0], one.indices)

    with TestPipeline() as pipeline:
        assert_that(pipeline | beam.Create(batches) | KeepLikeliest(plan), matches)


def split(drawn, size):
    rows = np.arange(len(drawn.indices))
    return [drawn.take(rows[start : start + size]) for start in rows[::size]]


@pytest.mark.parametrize("size", [10, 3, 1])
def test_most_likely_of_each_class_are_kept_in_any_input_order(size):
    # Probabilities 0.8, 0.7, 0.9 (even) and 0.9, 0.6 (odd); classes alternate in the kept set.
    expected = {"even": ([2, 4, 6], [0, 2, 4]), "odd": ([1, 5], [1, 3])}
    check(PLAN, split(ALL, size)[::-1], **expected)


def test_acceptance_1_keeps_every_image_at_its_position():
    batches = split(candidates(range(5), [0.1, 0.9, 0.8, 0.2, 0.7]), 2)
    expected = {"even": ([0, 2, 4], [0, 2, 4]), "odd": ([1, 3], [1, 3])}
    check(PLAN._replace(acceptance=1.0), batches, **expected)


def test_class_without_samples_is_absent():
    check(PLAN._replace(samples=1), [candidates([0, 2], [0.3, 0.6])], even=([2], [0]))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_ties_are_broken_by_image_number_and_nan_ranks_last(order):
    equal = candidates([0, 2, 4, 6], [np.nan, 0.5, 0.5, 0.5]).take(np.array(order))
    fn = LikeliestFn(2)
    accumulators = [fn.add_input(fn.create_accumulator(), part) for part in split(equal, 1)]
    merged = fn.merge_accumulators([*accumulators, fn.create_accumulator()])
    assert fn.extract_output(merged).indices.tolist() == [2, 4]


def test_accumulator_holds_at_most_twice_the_kept_count():
    fn = LikeliestFn(4)
    accumulator = fn.create_accumulator()
    rng = np.random.default_rng(0)
    wanted = rng.random(300)
    for part in split(candidates(np.arange(0, 600, 2), wanted), 3):
        accumulator = fn.add_input(accumulator, part)
        assert sum(len(held.indices) for held in accumulator) <= 8
    assert fn.extract_output(accumulator).indices.tolist() == (2 * np.argsort(-wanted)[:4]).tolist()
