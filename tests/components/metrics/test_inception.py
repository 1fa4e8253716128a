import numpy as np
import pytest

from components.metrics.inception import InceptionScoreFn, inception_score


def test_confident_predictions_over_all_classes_score_the_class_count():
    assert inception_score(np.tile(np.eye(10), [3, 1])) == (pytest.approx(10.0), 0.0)


def test_confident_predictions_of_one_class_score_1():
    assert inception_score(np.tile(np.eye(10)[:1], [5, 1]))[0] == pytest.approx(1.0)


def test_uniform_probabilities_score_1():
    assert inception_score(np.full([5, 10], 0.1))[0] == pytest.approx(1.0)


def test_partly_confident_predictions_match_closed_form():
    # p = (3/4, 1/4) and its mirror: KL to (1/2, 1/2) is ln 2 - H(1/4).
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert inception_score(np.array([[0.75, 0.25], [0.25, 0.75]]))[0] == pytest.approx(2 * np.exp(-entropy))


def test_score_is_mean_and_deviation_over_splits():
    first, second = np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]])
    mean, deviation = inception_score(np.concatenate([first, second]), splits=2)
    assert (mean, deviation) == (pytest.approx(1.5), pytest.approx(0.5))


def test_merged_accumulators_score_like_the_whole_set():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), size=30)
    fn = InceptionScoreFn()
    parts = [fn.add_input(fn.create_accumulator(), part) for part in np.split(probabilities, [0, 7])]
    assert fn.extract_output(fn.merge_accumulators(parts)) == pytest.approx(inception_score(probabilities)[0])


def test_score_of_empty_set_is_nan():
    fn = InceptionScoreFn()
    assert np.isnan(fn.extract_output(fn.create_accumulator()))
