import functools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from serving.export.sampling_params import BatchSamplingParams
from tests.trainers.vim.test_model import CLASSES, CODES, PLACES, model, rows
from trainers.training.config import Transformer
from trainers.transformer import init_cache
from trainers.vim.config import Model
from trainers.vim.model import VIM
from trainers.vim.sampling import _uniforms, sample, sample_token, step

PROBABILITIES = np.array([0.1, 0.4, 0.05, 0.3, 0.15])
DRAWS = 20_000


@pytest.fixture(scope="module")
def vim():
    return shaken(model())


def shaken(vim):
    """Perturb the weights: the logits are far from uniform, so that class and filters matter."""
    for variable in vim.trainable_variables:
        variable.assign(variable + 0.3 * tf.random.stateless_normal(variable.shape, seed=[3, 3]))
    return vim


@functools.cache
def compiled(vim):
    return tf.function(lambda *inputs: sample(vim, *inputs), reduce_retracing=True)


def ask(
    vim, class_id, seed, *, temperature=1.0, top_k=0, top_p=1.0, guidance=1.0, first=None, given=None, kept=0
) -> np.ndarray:
    count = len(class_id)
    guidance = np.broadcast_to(np.float32(guidance), [count])
    return compiled(vim)(
        tf.constant(class_id, tf.int32),
        tf.constant(seed, tf.int64),
        BatchSamplingParams(
            tf.fill([count], temperature),
            tf.fill([count], top_k),
            tf.fill([count], top_p),
            tf.constant(guidance if first is None else np.full([count], first, np.float32)),
            tf.constant(guidance),
        ),
        tf.zeros([count, PLACES], tf.int32) if given is None else tf.constant(given),
        tf.constant(np.broadcast_to(np.int32(kept), [count])),
    ).numpy()


def params(rows, temperature=1.0, top_k=0, top_p=1.0) -> BatchSamplingParams:
    one = tf.ones([rows])
    return BatchSamplingParams(
        tf.broadcast_to(tf.cast(temperature, tf.float32), [rows]),
        tf.broadcast_to(tf.cast(top_k, tf.int32), [rows]),
        tf.broadcast_to(tf.cast(top_p, tf.float32), [rows]),
        one,
        one,
    )


def distribution(temperature=1.0, top_k=0, top_p=1.0) -> np.ndarray:
    """The token frequencies over evenly spaced uniform numbers."""
    uniform = (np.arange(DRAWS) + 0.5) / DRAWS
    tokens = sample_token(
        tf.tile(tf.math.log(tf.constant(PROBABILITIES[None], tf.float32)), [DRAWS, 1]),
        tf.constant(uniform, tf.float32),
        params(DRAWS, temperature, top_k, top_p),
    )
    return np.bincount(tokens, minlength=5) / DRAWS


def test_samples_follow_the_softmax():
    np.testing.assert_allclose(distribution(), PROBABILITIES, atol=1e-3)


def test_temperature_one_half_squares_the_probabilities():
    np.testing.assert_allclose(
        distribution(temperature=0.5), PROBABILITIES**2 / (PROBABILITIES**2).sum(), atol=1e-3
    )


def test_temperature_zero_is_greedy():
    assert distribution(temperature=0.0)[1] == 1.0


def test_top_k_keeps_the_k_most_probable_tokens():
    np.testing.assert_allclose(distribution(top_k=2), [0, 4 / 7, 0, 3 / 7, 0], atol=1e-3)


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    np.testing.assert_allclose(distribution(top_p=0.75), [0, 8 / 17, 0, 6 / 17, 3 / 17], atol=1e-3)
    np.testing.assert_allclose(distribution(top_p=0.69), [0, 4 / 7, 0, 3 / 7, 0], atol=1e-3)


def test_tiny_top_p_keeps_the_most_probable_token():
    assert distribution(top_p=1e-6)[1] == 1.0


def test_filters_apply_per_row():
    tokens = sample_token(
        tf.math.log(tf.constant([PROBABILITIES] * 3, tf.float32)),
        tf.fill([3], 0.99),
        params(3, temperature=[1.0, 0.0, 1.0], top_k=[0, 0, 2]),
    )
    # The last of all codes, the most probable one, and the second of the two most probable.
    assert tokens.numpy().tolist() == [4, 1, 3]


# PROBABILITIES after each filter, before normalization.
FILTERS = {
    "plain": ({}, PROBABILITIES),
    "temperature": ({"temperature": 0.7}, PROBABILITIES ** (1 / 0.7)),
    "top_k": ({"top_k": 3}, PROBABILITIES * [0, 1, 0, 1, 1]),
    "top_p": ({"top_p": 0.8}, PROBABILITIES * [0, 1, 0, 1, 1]),
    "all three": ({"temperature": 2.0, "top_k": 4, "top_p": 0.5}, PROBABILITIES**0.5 * [0, 1, 0, 1, 0]),
}


@pytest.fixture(scope="module")
def of_every_seed() -> tf.Tensor:
    """The first uniform number of each of 20,000 seeds."""
    return tf.function(lambda seeds: _uniforms(seeds, 1))(tf.range(DRAWS, dtype=tf.int64))[:, 0]


@pytest.mark.parametrize("filters", FILTERS)
def test_samples_of_20000_seeds_follow_the_filtered_softmax(filters, of_every_seed):
    options, expected = FILTERS[filters]
    tokens = sample_token(
        tf.tile(tf.math.log(tf.constant(PROBABILITIES[None], tf.float32)), [DRAWS, 1]),
        of_every_seed,
        params(DRAWS, **options),
    )
    counts = np.bincount(tokens, minlength=5)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    wanted = DRAWS * expected[possible] / expected.sum()
    assert stats.chisquare(counts[possible], wanted).pvalue > 1e-3


@pytest.mark.slow
def test_guided_samples_of_20000_seeds_follow_the_guided_softmax(vim):
    start = tf.zeros([1, PLACES], tf.int32)
    with_class, without = (vim(start, tf.constant([c]))[0, 0].numpy() for c in (2, vim.no_class))
    guided = tf.nn.softmax(tf.cast(without + 1.5 * (with_class - without), tf.float64)).numpy()
    counts = np.bincount(ask(vim, [2] * DRAWS, range(DRAWS), guidance=1.5)[:, 0], minlength=CODES)
    assert_follows(counts, guided)


def assert_follows(counts: np.ndarray, expected: np.ndarray) -> None:
    total = counts.sum()
    rare = expected * total < 5  # pooled: too few for the chi-square approximation
    observed, wanted = (
        np.append(of_all[~rare], of_all[rare].sum()) if rare.any() else of_all
        for of_all in (counts, expected * total)
    )
    assert stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3


def test_filtered_row_does_not_change_unfiltered_rows():
    uniform = tf.constant((np.arange(100) + 0.5) / 100, tf.float32)
    logits = tf.tile(tf.math.log(tf.constant(PROBABILITIES[None], tf.float32)), [100, 1])
    alone = sample_token(logits, uniform, params(100))
    beside = sample_token(logits, uniform, params(100, top_k=[0] * 99 + [2]))
    np.testing.assert_array_equal(alone[:-1], beside[:-1])


def test_uniform_next_to_one_samples_no_zero_probability_token():
    logits = tf.constant([[0.0, 0.0, -1e9], [-1e9, 0.0, -1e9]])
    almost = tf.fill([2], np.nextafter(np.float32(1), np.float32(0)))
    for top_k in (0, 3):
        tokens = sample_token(logits, almost, params(2, top_k=top_k))
        assert tokens.numpy().tolist() == [1, 1]


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("annealed", [False, True])
def test_kv_cache_logits_equal_the_full_forward_pass(qk_norm, annealed):
    vim = shaken(
        model(qk_norm=qk_norm, random_order={"anneal_from": 0, "anneal_until": 1} if annealed else None)
    )
    tokens, class_id = rows(), tf.constant([0, 1, 2])
    whole = vim(tokens, class_id)
    caches = [init_cache(block.attention, tf.constant(3), PLACES) for block in vim.blocks]
    x = tf.gather(vim.class_embedding, class_id)
    for place in range(PLACES):
        logits, caches = step(vim, x, caches, tf.constant(place))
        np.testing.assert_allclose(logits, whole[:, place], atol=1e-4)
        x = tf.gather(vim.token_embedding, tokens[:, place])


@pytest.mark.slow
def test_first_tokens_of_4000_seeds_follow_the_model_softmax(vim):
    logits = vim(tf.zeros([1, PLACES], tf.int32), tf.constant([1]))
    expected = tf.nn.softmax(tf.cast(logits, tf.float64))[0, 0].numpy()
    assert_follows(np.bincount(ask(vim, [1] * 4000, range(4000))[:, 0], minlength=CODES), expected)


def test_greedy_tokens_equal_argmax_of_the_full_forward_pass(vim):
    tokens = ask(vim, [0, 1, 2], [5, 6, 7], temperature=0.0)
    logits = vim(tf.constant(tokens), tf.constant([0, 1, 2]))
    np.testing.assert_array_equal(tf.argmax(logits, axis=-1), tokens)


def test_sampled_row_does_not_depend_on_its_batch(vim):
    together = ask(vim, [0, 1, 2, 1], [11, 12, 13, 12])
    np.testing.assert_array_equal(together[1], together[3])
    np.testing.assert_array_equal(ask(vim, [2], [13])[0], together[2])
    assert np.any(together[0] != together[1])


@pytest.mark.slow
@pytest.mark.parametrize("qk_norm", [False, True])
def test_row_logits_are_bit_identical_in_any_batch(qk_norm):
    # A sampled code depends on the last bit: with thousands of codes, some image would change in any batch.
    size = Transformer(blocks=2, heads=3, width=96, hidden=192)
    vim = shaken(VIM(Model(transformer=size, qk_norm=qk_norm), tokens=9, codebook_size=512, classes=CLASSES))

    @tf.function(reduce_retracing=True)
    def logits_of(tokens):
        caches = [init_cache(block.attention, tf.shape(tokens)[0], 9) for block in vim.blocks]
        outputs = []
        for place in range(3):
            x = tf.gather(vim.token_embedding, tokens[:, place])
            logits, caches = step(vim, x, caches, tf.constant(place))
            outputs.append(logits)
        return tf.stack(outputs, axis=1)

    tokens = tf.random.stateless_uniform([33, 3], seed=[8, 8], maxval=512, dtype=tf.int32)
    together = logits_of(tokens)
    for part in (slice(0, 1), slice(32, 33), slice(0, 2), slice(4, 7), slice(10, 18)):
        np.testing.assert_array_equal(logits_of(tokens[part]), together[part])


def test_guidance_scale_zero_ignores_the_class_and_one_is_off(vim):
    seeds = range(8)
    np.testing.assert_array_equal(
        ask(vim, [0] * 8, seeds, guidance=0.0), ask(vim, [2] * 8, seeds, guidance=0.0)
    )
    plain = ask(vim, [0] * 8, seeds)
    # A guided row in the same batch must not change the others.
    mixed = ask(vim, [0] * 9, [*seeds, 1], guidance=[1.0] * 8 + [3.0])
    np.testing.assert_array_equal(mixed[:8], plain)
    assert np.any(ask(vim, [0] * 8, seeds, guidance=4.0) != plain)


def test_guidance_extrapolates_from_logits_without_class(vim):
    start = tf.zeros([1, PLACES], tf.int32)
    with_class, without = (vim(start, tf.constant([c]))[0, 0] for c in (2, vim.no_class))
    guided = without + 5.0 * (with_class - without)
    assert ask(vim, [2], [0], temperature=0.0, guidance=5.0)[0, 0] == int(tf.argmax(guided))


def test_linear_guidance_schedule_goes_from_first_to_last_scale(vim):
    seeds = range(64)
    plain, strong = ask(vim, [2] * 64, seeds), ask(vim, [2] * 64, seeds, guidance=4.0)
    rising = ask(vim, [2] * 64, seeds, first=1.0, guidance=4.0)
    falling = ask(vim, [2] * 64, seeds, first=4.0, guidance=1.0)
    np.testing.assert_array_equal(rising[:, 0], plain[:, 0])
    np.testing.assert_array_equal(falling[:, 0], strong[:, 0])
    assert np.any(rising != plain)
    assert np.any(rising != strong)
    # The last position has the last scale: with all other tokens kept, no other scale matters.
    kept = {"given": plain, "kept": PLACES - 1}
    np.testing.assert_array_equal(
        ask(vim, [2] * 64, seeds, first=1.0, guidance=4.0, **kept),
        ask(vim, [2] * 64, seeds, guidance=4.0, **kept),
    )


@pytest.mark.parametrize("first", [3.0, 1.0], ids=["constant", "linear"])
def test_guided_greedy_tokens_equal_argmax_of_guided_logits(vim, first):
    classes = tf.constant([0, 1, 2] * 4)
    drawn = ask(vim, classes, range(12), temperature=0.0, first=first, guidance=3.0)
    with_class, without = vim(drawn, classes), vim(drawn, tf.fill([12], vim.no_class))
    scale = tf.linspace(first, 3.0, PLACES)[:, tf.newaxis]
    guided = without + scale * (with_class - without)
    np.testing.assert_array_equal(drawn, tf.argmax(guided, axis=-1))
    # The image differs from the argmax without guidance.
    assert np.any(drawn != tf.argmax(with_class, axis=-1))


def test_prompt_tokens_are_kept_and_condition_the_rest(vim):
    given = rows(3).numpy()
    completed = ask(vim, [0, 1, 2], [5, 6, 7], given=given, kept=[0, 2, PLACES])
    np.testing.assert_array_equal(completed[0], ask(vim, [0], [5])[0])
    np.testing.assert_array_equal(completed[1, :2], given[1, :2])
    np.testing.assert_array_equal(completed[2], given[2])
    greedy = ask(vim, [0, 1, 2], [0, 0, 0], temperature=0.0, given=given, kept=3)
    guesses = tf.argmax(vim(tf.constant(greedy), tf.constant([0, 1, 2])), axis=-1)
    np.testing.assert_array_equal(greedy[:, 3:], guesses[:, 3:])


def test_unconditional_model_ignores_the_class():
    unconditional = model(class_conditional=False)
    np.testing.assert_array_equal(ask(unconditional, [0], [4]), ask(unconditional, [2], [4]))
