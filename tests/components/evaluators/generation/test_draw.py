import numpy as np

from components.evaluators.generation.draw import Plan


def plan(**changes):
    return Plan(10, 3, 4, 0, 1.0, 0, 1.0, 1.0)._replace(**changes)


def test_classes_come_in_turn():
    assert plan().class_ids(np.arange(5)).tolist() == [0, 1, 2, 0, 1]
    assert plan(classes=0).class_ids(np.arange(3)).tolist() == [0, 0, 0]


def test_no_two_images_of_any_two_sets_share_a_seed():
    seeds = np.concatenate([plan(seed=seed).row_seeds(np.arange(1000)) for seed in (0, 1, 2**31 - 1)])
    assert len(np.unique(seeds)) == 3000
    assert seeds.dtype == np.int64


def test_the_last_batch_may_be_short():
    assert plan().starts() == [0, 4, 8]
