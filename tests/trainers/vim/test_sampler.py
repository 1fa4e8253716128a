import functools
import math
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from serving.export.sampling_params import BatchSamplingParams, SamplingRequest
from tests.trainers.vim.test_model import CLASSES, CODES, PLACES, model, rows
from trainers.kv_cache import KVCache
from trainers.training.config import Transformer
from trainers.vim.cached import Weights
from trainers.vim.config import Model
from trainers.vim.config import Sampler as Options
from trainers.vim.model import VIM
from trainers.vim.sampler import CompiledSampler, Drawing, Drawn, Program, Sampler, _State

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
def drawing(vim, engine):
    sampler = Sampler(vim, Options(engine=engine))
    return tf.function(
        lambda *request: sampler(SamplingRequest(*request)), autograph=False, reduce_retracing=True
    )


def request(
    vim, class_id, seed, *, temperature=1.0, top_k=0, top_p=1.0, guidance=1.0, first=None, given=None, kept=0
) -> SamplingRequest:
    count = len(class_id)
    guidance = np.broadcast_to(np.float32(guidance), [count])
    return SamplingRequest(
        tf.constant(class_id, tf.int32),
        tf.constant(seed, tf.int64),
        BatchSamplingParams(
            tf.fill([count], temperature),
            tf.fill([count], top_k),
            tf.fill([count], top_p),
            tf.constant(guidance if first is None else np.full([count], first, np.float32)),
            tf.constant(guidance),
        ),
        tf.zeros([count, vim.tokens], tf.int32) if given is None else tf.constant(given),
        tf.constant(np.broadcast_to(np.int32(kept), [count])),
    )


def draw(vim, *inputs, engine="jacobi", **options) -> Drawn:
    return drawing(vim, engine)(*request(vim, *inputs, **options))


def ask(*inputs, **options) -> np.ndarray:
    return draw(*inputs, **options).tokens.numpy()


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


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("count", [1, 3, 5, 20])
def test_jacobi_gives_the_sequential_tokens_in_fewer_passes(count, guidance):
    long = longer()
    options = {
        "guidance": guidance,
        "temperature": 0.7,
        "top_p": 0.9,
        "given": prompts(long, count),
        "kept": [7 * row % 30 for row in range(count)],
    }
    inputs = [row % CLASSES for row in range(count)], range(count)
    fast, slow = (draw(long, *inputs, engine=engine, **options) for engine in ("jacobi", "sequential"))
    np.testing.assert_array_equal(fast.tokens, slow.tokens)
    np.testing.assert_array_equal(slow.passes, long.tokens - np.array(options["kept"]))
    assert np.all(fast.passes <= slow.passes)
    if count == 1:
        assert int(fast.passes[0]) < 0.7 * int(slow.passes[0])


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("kept", [[0, 0, 0], [0, 3, 70]])
@pytest.mark.parametrize("options", [Options(engine="sequential"), Options(compiled_slots=32), Options()])
def test_the_sampler_for_xla_draws_the_same_tokens(guidance, options, kept):
    long = longer()
    inputs = request(long, [0, 1, 2], [4, 5, 6], guidance=guidance, given=prompts(long, 3), kept=kept)
    drawn = compiled(long, Program(guided=guidance != 1.0, prompted=any(kept)), options)(*inputs)
    np.testing.assert_array_equal(drawn.tokens, drawing(long, "jacobi")(*inputs).tokens)
    left = long.tokens - np.array(kept)
    if options.engine == "sequential":
        np.testing.assert_array_equal(drawn.passes, left)
    else:
        assert np.all(drawn.passes <= left)
        assert int(drawn.passes[0]) < 0.7 * long.tokens


def test_xla_draws_the_last_places_of_an_image_that_fills_all_chunks():
    whole = longer(tokens=64)
    inputs = request(whole, [0, 1, 2], [4, 5, 6])
    drawn = compiled(whole, Program(guided=False), Options(compiled_slots=32))(*inputs)
    np.testing.assert_array_equal(drawn.tokens, drawing(whole, "jacobi")(*inputs).tokens)


@pytest.mark.slow
@pytest.mark.parametrize("prompted", [False, True])
def test_an_image_that_xla_draws_does_not_depend_on_the_others(prompted):
    long = longer()
    draw = compiled(long, Program(guided=False, prompted=prompted), Options(compiled_slots=16))
    wanted: dict[tuple[int, int, int], np.ndarray] = {}
    given = prompts(long, 1)[0]
    for seed in range(100):
        chosen = np.random.default_rng(seed).integers(
            0, [CLASSES, 6, 4] if prompted else [CLASSES, 30, 1], [4, 3]
        )
        kept = chosen[:, 2] * 20
        drawn = draw(
            *request(long, chosen[:, 0], chosen[:, 1], given=tf.tile(given[tf.newaxis], [4, 1]), kept=kept)
        )
        for row, tokens in zip(map(tuple, chosen.tolist()), drawn.tokens.numpy(), strict=True):
            np.testing.assert_array_equal(tokens, wanted.setdefault(row, tokens))
    assert len(wanted) > 50


@functools.cache
def compiled(vim, program, options):
    sampler = CompiledSampler(vim, program, options)
    return tf.function(lambda *parts: sampler(SamplingRequest(*parts)), jit_compile=True, autograph=False)


def test_a_request_without_images_draws_none(vim):
    assert ask(vim, [], []).shape == (0, PLACES)


def test_an_image_is_complete_before_others_of_its_group():
    long = longer()
    passes = draw(
        long, [0, 1, 2], [4, 5, 6], given=tf.zeros([3, long.tokens], tf.int32), kept=[0, 40, 80]
    ).passes
    assert passes[0] > passes[1] > passes[2] > 0


def prompts(vim: VIM, count: int) -> tf.Tensor:
    return tf.random.stateless_uniform([count, vim.tokens], [1, 1], maxval=CODES, dtype=tf.int32)


@functools.cache
def longer(tokens: int = 81) -> VIM:
    """A model whose cache has two chunks, in the graph and under XLA, or one of 64 tokens."""
    keras.utils.set_random_seed(0)
    size = Transformer(blocks=2, heads=2, width=16, hidden=32)
    return shaken(VIM(Model(transformer=size), tokens=tokens, codebook_size=CODES, classes=CLASSES))


def test_bfloat16_weights_and_cache_draw_other_but_likely_tokens():
    long = longer()
    reduced = Sampler(long, Options(weights="bfloat16", cache="bfloat16"))
    inputs = request(long, [0, 1, 2] * 8, range(24))
    tokens = tf.function(lambda *parts: reduced(SamplingRequest(*parts)), autograph=False)(*inputs).tokens
    exact = ask(long, [0, 1, 2] * 8, range(24))
    likelihood, wanted = (
        float(tf.reduce_mean(long.log_likelihood(each, inputs.class_id)))
        for each in (tokens, tf.constant(exact))
    )
    assert np.mean(tokens.numpy() == exact) > 0.3
    assert likelihood == pytest.approx(wanted, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("onednn", ["0", "1"])
def test_tokens_have_the_same_bits_in_random_batches(onednn):
    # A process of its own, with the optimizer of graphs on, as in a server.
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn}
    command = [sys.executable, "-m", "tests.trainers.vim.random_batches", "150"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("0 of ")


@pytest.mark.slow
@pytest.mark.parametrize(("images", "chunks", "window"), [(1, 1, 1), (1, 1, 16), (4, 8, 1), (4, 8, 4)])
def test_products_under_xla_read_the_weights_and_the_cache_so_far_and_nothing_copies_a_cache(
    images, chunks, window
):
    keras.utils.set_random_seed(0)
    size = Transformer(blocks=2, heads=4, width=256, hidden=1024)
    vim = VIM(Model(transformer=size, dropout=0.0), tokens=512, codebook_size=512, classes=0)
    inputs = request(vim, [0] * images, range(images))
    of_one = images * 64 * chunks * 256

    def passes(seed, tokens, *caches):
        weights = Weights.of(vim, tf.float32)
        drawing = Drawing(vim, Options(), weights, inputs._replace(seed=seed), Program(guided=False), window)
        pairs = [KVCache(*pair) for pair in zip(caches[::2], caches[1::2], strict=True)]
        length = tf.fill([images], 64 * chunks - 2 * window)
        state = _State(tf.constant(0), length, tokens, tf.zeros_like(length), pairs)
        return drawing._passes(state, chunks).tokens

    compiled = tf.function(passes, jit_compile=True, autograph=False)
    beyond = window - 1 if chunks == 8 else 0
    tokens, cache = tf.zeros([images, vim.tokens], tf.int32), tf.zeros([images * 4, 64 * chunks + beyond, 64])
    program = compiled.experimental_get_compiler_ir(inputs.seed, tokens, *[cache] * 4)(stage="optimized_hlo")
    entry = program.index("ENTRY")  # which copies its arguments once, as they must stay
    moved = "copy|transpose|slice|pad|call|dot|custom-call"
    made = re.findall(rf"= f32\[([\d,]+)\]\S* ({moved})\(([^)]*)\)", program[:entry])
    large = [kind for shape, kind, _ in made if kind in moved.split("|")[:5] and numbers(shape) >= of_one]
    # Not every release writes the shapes of operands beside their names.
    known = dict(re.findall(r"%([\w.-]+) = f32\[([\d,]*)\]", program))
    # Those of attention may be calls of oneDNN, and so its softmax.
    products = [operands for _, kind, operands in made if kind in ("dot", "custom-call")]
    read = sum(numbers(known[name]) for operands in products for name in re.findall(r"%([\w.-]+)", operands))
    weights = sum(int(tf.size(kernel)) for block in vim.blocks for kernel in block.kernels(tf.float32))
    weights += int(tf.size(vim.logits.kernel))
    assert not large
    assert 1.0 <= read / (weights + 4 * of_one) < 1.1


def numbers(shape: str) -> int:
    return math.prod(int(size) for size in shape.split(",") if size)
