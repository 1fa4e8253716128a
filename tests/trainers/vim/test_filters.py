import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from serving.export.sampling_params import BatchSamplingParams
from trainers.vim import filters, gumbel

PROBABILITIES = np.array([0.1, 0.4, 0.05, 0.3, 0.15])
DRAWS = 20_000


def params(rows, temperature=1.0, top_k=0, top_p=1.0) -> BatchSamplingParams:
    one = tf.ones([rows])
    return BatchSamplingParams(
        tf.broadcast_to(tf.cast(temperature, tf.float32), [rows]),
        tf.broadcast_to(tf.cast(top_k, tf.int32), [rows]),
        tf.broadcast_to(tf.cast(top_p, tf.float32), [rows]),
        one,
        one,
    )


def logits(rows: int) -> tf.Tensor:
    return tf.tile(tf.math.log(tf.constant(PROBABILITIES, tf.float32))[tf.newaxis, tf.newaxis], [rows, 1, 1])


@pytest.fixture(scope="module")
def noise() -> tf.Tensor:
    """The noise of 20,000 seeds, [B, 1, K]."""
    return gumbel.noise(gumbel.keys(tf.range(DRAWS, dtype=tf.int64), 1), len(PROBABILITIES))


# PROBABILITIES after each filter, before normalization.
FILTERS = {
    "plain": ({}, PROBABILITIES),
    "temperature": ({"temperature": 0.7}, PROBABILITIES ** (1 / 0.7)),
    "top_k": ({"top_k": 3}, PROBABILITIES * [0, 1, 0, 1, 1]),
    "top_k of all": ({"top_k": 5}, PROBABILITIES),
    "top_p": ({"top_p": 0.8}, PROBABILITIES * [0, 1, 0, 1, 1]),
    "top_p of two": ({"top_p": 0.69}, PROBABILITIES * [0, 1, 0, 1, 0]),
    "tiny top_p": ({"top_p": 1e-6}, PROBABILITIES * [0, 1, 0, 0, 0]),
    "greedy": ({"temperature": 0.0}, PROBABILITIES * [0, 1, 0, 0, 0]),
    "all three": ({"temperature": 2.0, "top_k": 4, "top_p": 0.5}, PROBABILITIES**0.5 * [0, 1, 0, 1, 0]),
}


@pytest.mark.parametrize("name", FILTERS)
def test_draws_of_20000_seeds_follow_the_filtered_softmax(name, noise):
    options, expected = FILTERS[name]
    tokens = filters.draw(logits(DRAWS), noise, params(DRAWS, **options))[:, 0]
    counts = np.bincount(tokens, minlength=5)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    wanted = DRAWS * expected[possible] / expected.sum()
    assert possible.sum() == 1 or stats.chisquare(counts[possible], wanted).pvalue > 1e-3


def test_equal_logits_are_kept_in_the_order_of_codes():
    kept = filters.keep(tf.zeros([1, 1, 4]), params(1, top_k=2))
    assert (kept.numpy()[0, 0] == 0.0).tolist() == [True, True, False, False]


def test_filters_apply_per_row_and_leave_other_rows_alone(noise):
    alone = filters.draw(logits(100), noise[:100], params(100))
    beside = filters.draw(logits(100), noise[:100], params(100, top_k=[0] * 99 + [1]))
    np.testing.assert_array_equal(alone[:-1], beside[:-1])
    assert beside[-1, 0] == 1


def test_filters_apply_at_each_place():
    both = tf.concat([logits(1), tf.reverse(logits(1), [-1])], axis=1)
    kept = filters.keep(both, params(1, top_k=1)).numpy()
    assert kept.argmax(axis=-1).tolist() == [[1, 3]]
    assert (kept > kept.min()).sum(axis=-1).tolist() == [[1, 1]]


def test_guidance_scales_differ_by_place_and_one_leaves_the_logits():
    with_class, without = tf.constant([[[1.0, 2.0], [1.0, 2.0]]]), tf.constant([[[0.5, 5.0], [0.5, 5.0]]])
    guided = filters.guide(tf.concat([with_class, without], axis=0), tf.constant([[1.0, 3.0]]))
    np.testing.assert_allclose(guided[0], [[1.0, 2.0], [2.0, -4.0]])
