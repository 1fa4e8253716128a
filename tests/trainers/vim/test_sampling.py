import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests.trainers.vim.test_model import CODES, PLACES, model
from trainers.vim.sampling import draw, sample

PROBABILITIES = np.array([0.1, 0.4, 0.05, 0.3, 0.15])
DRAWS = 20_000


@pytest.fixture(scope="module")
def vim():
    vim = model()
    for variable in vim.trainable_variables:  # far from uniform, so that class and filters matter
        variable.assign(variable + 0.3 * tf.random.stateless_normal(variable.shape, seed=[3, 3]))
    return vim


def ask(vim, class_id, seed, *, temperature=1.0, top_k=0, top_p=1.0, guidance=1.0) -> np.ndarray:
    count = len(class_id)
    compiled = tf.function(lambda *inputs: sample(vim, *inputs))
    return compiled(
        tf.constant(class_id, tf.int32),
        tf.constant(seed, tf.int64),
        tf.fill([count], temperature),
        tf.fill([count], top_k),
        tf.fill([count], top_p),
        tf.fill([count], guidance),
    ).numpy()


def distribution(temperature=1.0, top_k=0, top_p=1.0) -> np.ndarray:
    """What many draws with evenly spread randomness give."""
    uniform = (np.arange(DRAWS) + 0.5) / DRAWS
    tokens = draw(
        tf.tile(tf.math.log(tf.constant(PROBABILITIES[None], tf.float32)), [DRAWS, 1]),
        tf.constant(uniform, tf.float32),
        tf.fill([DRAWS], temperature),
        tf.fill([DRAWS], top_k),
        tf.fill([DRAWS], top_p),
    )
    return np.bincount(tokens, minlength=5) / DRAWS


def test_plain_draws_follow_the_softmax():
    np.testing.assert_allclose(distribution(), PROBABILITIES, atol=1e-3)


def test_temperature_sharpens_by_a_power():
    np.testing.assert_allclose(
        distribution(temperature=0.5), PROBABILITIES**2 / (PROBABILITIES**2).sum(), atol=1e-3
    )


def test_temperature_zero_is_greedy():
    assert distribution(temperature=0.0)[1] == 1.0


def test_top_k_keeps_the_likeliest():
    np.testing.assert_allclose(distribution(top_k=2), [0, 4 / 7, 0, 3 / 7, 0], atol=1e-3)


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    np.testing.assert_allclose(distribution(top_p=0.75), [0, 8 / 17, 0, 6 / 17, 3 / 17], atol=1e-3)
    np.testing.assert_allclose(distribution(top_p=0.69), [0, 4 / 7, 0, 3 / 7, 0], atol=1e-3)


def test_a_tiny_top_p_still_keeps_the_likeliest():
    assert distribution(top_p=1e-6)[1] == 1.0


def test_filters_are_taken_from_each_row():
    tokens = draw(
        tf.math.log(tf.constant([PROBABILITIES] * 3, tf.float32)),
        tf.fill([3], 0.99),
        tf.constant([1.0, 0.0, 1.0]),
        tf.constant([0, 0, 2]),
        tf.constant([1.0, 1.0, 1.0]),
    )
    assert tokens.numpy().tolist() == [2, 1, 3]


def test_first_tokens_of_many_seeds_follow_the_model(vim):
    logits = vim(tf.zeros([1, PLACES], tf.int32), tf.constant([1]))
    expected = tf.nn.softmax(tf.cast(logits, tf.float64))[0, 0].numpy()
    counts = np.bincount(ask(vim, [1] * 4000, range(4000))[:, 0], minlength=CODES)
    frequent = expected * 4000 >= 5  # the chi-square approximation needs that many
    observed = np.append(counts[frequent], counts[~frequent].sum())
    wanted = np.append(expected[frequent], expected[~frequent].sum()) * 4000
    assert stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3


def test_greedy_sampling_takes_what_the_uncached_model_ranks_first(vim):
    tokens = ask(vim, [0, 1, 2], [5, 6, 7], temperature=0.0)
    logits = vim(tf.constant(tokens), tf.constant([0, 1, 2]))
    np.testing.assert_array_equal(tf.argmax(logits, axis=-1), tokens)


def test_a_row_does_not_depend_on_its_batch(vim):
    together = ask(vim, [0, 1, 2, 1], [11, 12, 13, 12])
    np.testing.assert_array_equal(together[1], together[3])
    np.testing.assert_array_equal(ask(vim, [2], [13])[0], together[2])
    assert np.any(together[0] != together[1])


def test_guidance_zero_forgets_the_class_and_one_changes_nothing(vim):
    seeds = range(8)
    np.testing.assert_array_equal(
        ask(vim, [0] * 8, seeds, guidance=0.0), ask(vim, [2] * 8, seeds, guidance=0.0)
    )
    plain = ask(vim, [0] * 8, seeds)
    compiled = tf.function(lambda *inputs: sample(vim, *inputs))
    mixed = compiled(  # a guided row beside them must not change the others
        tf.constant([0] * 9),
        tf.constant([*seeds, 1], tf.int64),
        tf.ones([9]),
        tf.zeros([9], tf.int32),
        tf.ones([9]),
        tf.constant([1.0] * 8 + [3.0]),
    )
    np.testing.assert_array_equal(mixed[:8], plain)
    assert np.any(ask(vim, [0] * 8, seeds, guidance=4.0) != plain)


def test_guidance_extrapolates_from_the_classless_logits(vim):
    start = tf.zeros([1, PLACES], tf.int32)
    with_class, without = (vim(start, tf.constant([c]))[0, 0] for c in (2, vim.no_class))
    guided = without + 5.0 * (with_class - without)
    assert ask(vim, [2], [0], temperature=0.0, guidance=5.0)[0, 0] == int(tf.argmax(guided))


def test_an_unconditional_model_ignores_the_class():
    unconditional = model(class_conditional=False)
    np.testing.assert_array_equal(ask(unconditional, [0], [4]), ask(unconditional, [2], [4]))
