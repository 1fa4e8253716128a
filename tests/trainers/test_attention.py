"""Attention in blocks of keys is plain attention, and holds less."""

import statistics

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import hlo
from trainers import attention
from trainers.training.config import Memory, Transformer
from trainers.transformer import Block, run_blocks


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 4 keys, so that a short sequence has several."""
    monkeypatch.setattr(attention, "KEY_BLOCK", 4)


def inputs(length: int, dtype=tf.float32, width: int = 8) -> list[tf.Tensor]:
    shape = [2, 3, length, width]
    return [tf.cast(2 * tf.random.stateless_normal(shape, [1, seed]), dtype) for seed in range(3)]


def outputs_and_gradients(core, tensors, *, jit_compile: bool = False, **options) -> list[np.ndarray]:
    weights = tf.random.stateless_normal(tensors[0].shape, [2, 2])

    @tf.function(jit_compile=jit_compile, autograph=False)
    def run(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            output = tf.cast(core(*tensors, **options), tf.float32)
            loss = tf.reduce_sum(weights * output)
        return output, *tape.gradient(loss, tensors)

    return [result.numpy().astype(np.float32) for result in run(*tensors)]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [4, 12, 7, 9])
def test_blockwise_equals_plain_attention(small_blocks, causal, length, jit_compile):
    plain = outputs_and_gradients(attention.attend, inputs(length), causal=causal)
    blockwise = outputs_and_gradients(
        attention.attend_blockwise, inputs(length), causal=causal, jit_compile=jit_compile
    )
    for one, other in zip(plain, blockwise, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5 * np.abs(one).max())


def test_scores_of_any_size_stay_finite(small_blocks):
    tensors = [100.0 * each for each in inputs(12)]
    plain = outputs_and_gradients(attention.attend, tensors, causal=True)
    blockwise = outputs_and_gradients(attention.attend_blockwise, tensors, causal=True)
    # All weight is on one key. Gradients of scores are then differences of large numbers, and only rounding.
    np.testing.assert_allclose(blockwise[0], plain[0], rtol=1e-4)
    for one, other in zip(plain, blockwise, strict=True):
        assert np.isfinite(one).all()
        assert np.isfinite(other).all()


def test_bfloat16_is_as_accurate_as_the_plain_form(small_blocks):
    exact = outputs_and_gradients(attention.attend, inputs(12), causal=False)
    errors = []
    for core in (attention.attend, attention.attend_blockwise):
        found = outputs_and_gradients(core, inputs(12, tf.bfloat16), causal=False)
        errors.append([np.abs(one - other).mean() for one, other in zip(found, exact, strict=True)])
    np.testing.assert_array_less(errors[1], 1.5 * np.array(errors[0]))


def test_dropped_weights_are_the_same_forward_and_backward(small_blocks, monkeypatch):
    """With the masks that it draws, plain attention gives the same output and gradients."""
    queries, keys, values = inputs(12)
    seed, rate = tf.constant([3, 4]), 0.4
    masks = []
    for index in range(3):
        own = tf.random.experimental.stateless_fold_in(seed, index)
        masks.append(attention.dropout(tf.ones([2, 3, 12, 4]), rate, own))
    mask = tf.concat(masks, axis=-1)
    assert 0.3 < np.mean(mask.numpy() == 0) < 0.5

    def plain(queries, keys, values, *, causal):
        scores = tf.matmul(queries, keys, transpose_b=True)
        if causal:
            scores = tf.where(np.tri(12, dtype=bool), scores, scores.dtype.min)
        return tf.matmul(mask * tf.nn.softmax(scores), values)

    for causal in (False, True):
        expected = outputs_and_gradients(plain, [queries, keys, values], causal=causal)
        found = outputs_and_gradients(
            attention.attend_blockwise, [queries, keys, values], causal=causal, rate=rate, seed=seed
        )
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("checkpointed", [False, True])
def test_blocks_train_alike_and_are_served_plainly(small_blocks, checkpointed, monkeypatch):
    blocks = [Block(Transformer(blocks=1, heads=2, width=8, hidden=16), causal=True) for _ in range(2)]
    keras.utils.set_random_seed(0)
    x = tf.random.stateless_normal([2, 12, 8], [1, 1])
    expected = run_blocks(blocks, x, training=True)
    seen = []
    real = attention.attend_blockwise
    monkeypatch.setattr(
        "trainers.transformer.attend_blockwise", lambda *a, **k: (seen.append(1), real(*a, **k))[1]
    )
    memory = Memory(gradient_checkpointing=checkpointed, blockwise_attention=True)
    with tf.GradientTape() as tape:
        found = run_blocks(blocks, x, training=True, memory=memory)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert tape.gradient(found, blocks[0].attention.qkv.kernel.value) is not None
    assert seen
    seen.clear()
    run_blocks(blocks, x, training=False, memory=memory)
    assert not seen


@pytest.mark.slow
def test_memory_of_scores_does_not_grow_with_the_square_of_the_length():
    def held(length: int, *, blockwise: bool) -> int:
        size = Transformer(blocks=2, heads=4, width=32, hidden=64)
        stack = [Block(size) for _ in range(size.blocks)]
        for block in stack:
            block.build((1, length, size.width))
        weights = [variable.value for block in stack for variable in block.trainable_variables]
        memory = Memory(blockwise_attention=blockwise)

        def gradients(x: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(run_blocks(stack, x, training=True, memory=memory) ** 2)
            return tape.gradient(loss, weights)

        # XLA's buffers differ from one compilation to the next: 6.2 to 9.1 MB at 512, seen in eight.
        x = tf.ones([1, length, size.width])
        return statistics.median(hlo.count(gradients, x).held for _ in range(5))

    plain, blockwise = ([held(n, blockwise=way) for n in (512, 1024)] for way in (False, True))
    assert plain[1] > 3.5 * plain[0]
    assert blockwise[1] < 2.6 * blockwise[0]
    assert blockwise[1] < plain[1] / 4
