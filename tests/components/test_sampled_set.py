import numpy as np
import pytest

from components.sampled_set import SamplingPlan
from serving.export.sampling_params import SamplingParams


def plan(seed=0, **changes):
    return SamplingPlan(10, 3, 1.0, SamplingParams(seed=seed))._replace(**changes)


def test_classes_alternate():
    assert plan().class_ids(np.arange(5)).tolist() == [0, 1, 2, 0, 1]
    assert plan(classes=0).class_ids(np.arange(3)).tolist() == [0, 0, 0]


def test_row_seeds_are_unique_across_images_and_sets():
    seeds = np.concatenate([plan(seed=seed).row_seeds(np.arange(1000)) for seed in (0, 1, 2**31 - 1)])
    assert len(np.unique(seeds)) == 3000
    assert seeds.dtype == np.int64


@pytest.mark.parametrize(("size", "counts"), [(4, [4, 4, 2]), (5, [5, 5]), (30, [10])])
def test_shards_are_full_but_the_last_one(size, counts):
    assert plan().shards(size) == counts


@pytest.mark.parametrize("classes", [0, 1, 3, 10, 12])
def test_acceptance_1_samples_no_extra_candidates(classes):
    whole = plan(classes=classes)
    assert whole.candidates == 10
    assert whole.indices(np.arange(10)).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("samples", "acceptance", "of_each"),
    [
        (9, 0.5, [6, 6, 6]),
        (10, 0.5, [8, 6, 6]),  # 4, 3 and 3 samples
        (11, 0.7, [6, 6, 5]),  # 4 / 0.7 and 3 / 0.7, rounded up
        (2, 0.25, [4, 4, 0]),
        (30, 0.1, [100, 100, 100]),  # not 101, although the float 0.1 is slightly above 1/10
        (9, 0.3, [10, 10, 10]),
    ],
)
def test_candidates_per_class_are_samples_over_acceptance_rounded_up(samples, acceptance, of_each):
    drawn = plan(samples=samples, acceptance=acceptance)
    indices = drawn.indices(np.arange(drawn.candidates))
    assert np.bincount(drawn.class_ids(indices), minlength=3).tolist() == of_each
    assert sorted(indices) == [
        index for index in range(3 * max(of_each)) if index // 3 < of_each[index % 3]
    ]  # no image is sampled twice, and none is left out
    assert drawn.places(indices).tolist() == list(range(drawn.candidates))
