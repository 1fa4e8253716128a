import gc
import math
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import hlo
from trainers.kv_cache import ChunkedCache, Shape
from trainers.training.config import Memory, Transformer
from trainers.transformer import (
    Block,
    Dense,
    LayerNorm,
    SelfAttention,
    run_blocks,
)

CHECKPOINTED = Memory(gradient_checkpointing=True)
SIZE = Transformer(blocks=1, heads=2, width=8, hidden=16)


def random(*shape: int) -> tf.Tensor:
    return tf.random.stateless_normal(shape, seed=[1, 2])


@pytest.fixture
def causal_block() -> Block:
    block = Block(SIZE, causal=True)
    block(random(1, 5, 8))
    return block


def test_causal_output_does_not_depend_on_later_positions(causal_block):
    x = random(2, 5, 8)
    changed = tf.concat([x[:, :3], x[:, 3:] + 1.0], axis=1)
    before, after = causal_block(x), causal_block(changed)
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert np.abs(before[:, 3:] - after[:, 3:]).min() > 1e-3


def test_non_causal_output_depends_on_later_positions():
    block = Block(SIZE)
    x = random(1, 5, 8)
    changed = tf.concat([x[:, :4], -x[:, 4:]], axis=1)
    assert np.abs(block(x)[:, 0] - block(changed)[:, 0]).max() > 1e-3


def decoded(block: Block, x: tf.Tensor) -> tf.Tensor:
    """The outputs of `decode` at each position, [B, N, D], from a graph of unknown batch size."""

    @tf.function(input_signature=[tf.TensorSpec([None, *x.shape[1:]])])
    def run(x):
        heads, head_dim = block.attention.heads, block.attention.head_dim
        rows = tf.shape(x)[0]
        layout = ChunkedCache(Shape(rows, x.shape[1], heads, head_dim, tf.as_dtype(block.compute_dtype)))
        cache = layout.empty()
        outputs = []
        for place in range(x.shape[1]):

            def attend(queries, keys, values, place=place):
                nonlocal cache
                position = tf.fill([rows, 1], place)
                queries, keys, values = (each[:, tf.newaxis] for each in (queries, keys, values))
                cache = layout.write(cache, keys, values, layout.addresses(position))
                return layout.attend(cache, queries, position, 1)

            outputs.append(block.decode(x[:, place], block.kernels(tf.float32), attend))
        return tf.stack(outputs, axis=1)

    block(x)  # makes the weights
    return run(x)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_decoded_positions_equal_the_full_call(rows, qk_norm):
    block = Block(SIZE, causal=True, qk_norm=qk_norm)
    x = random(rows, 5, 8)
    np.testing.assert_allclose(block(x), decoded(block, x), atol=1e-5)


def test_norm_by_row_equals_the_norm():
    norm = LayerNorm()
    x = random(3, 8)
    norm.build(x.shape)
    norm.gamma.assign(random(8))
    norm.beta.assign(random(8))
    np.testing.assert_allclose(norm(x), norm.by_row(x), atol=1e-6)


def test_qk_norm_bounds_attention_scores():
    plain, normed = (SelfAttention(SIZE, causal=False, dropout=0.0, qk_norm=on) for on in (False, True))
    x = random(1, 5, 8)
    for attention in (plain, normed):
        attention(x)
        attention.qkv.kernel.assign(100.0 * attention.qkv.kernel)
    # Queries and keys have 4 dimensions and unit variance: a score is at most 4 / sqrt(4).
    scores = []
    for attention in (plain, normed):
        queries, keys, _ = attention._heads(attention.qkv(x))
        scores.append(np.abs(tf.matmul(queries, keys, transpose_b=True)).max())
    assert scores[0] > 100.0
    assert scores[1] <= 2.0 + 1e-4


def test_attention_matches_the_textbook_formula():
    attention = SelfAttention(SIZE, causal=False, dropout=0.0)
    x = random(1, 5, 8)
    output = attention(x)
    queries, keys, values = np.split(attention.qkv(x).numpy()[0], 3, axis=-1)
    heads = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        scores = queries[:, part] @ keys[:, part].T / np.sqrt(4)
        weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
        heads.append(weights @ values[:, part])
    np.testing.assert_allclose(output[0], attention.out(np.concatenate(heads, axis=-1)[None])[0], atol=1e-5)


def test_dropout_acts_in_training_only():
    block = Block(SIZE, dropout=0.5)
    x = random(1, 5, 8)
    np.testing.assert_array_equal(block(x), block(x))
    assert np.abs(block(x, training=True) - block(x)).max() > 1e-3


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width must be a multiple of heads 3, got 8"):
        Transformer(blocks=1, heads=3, width=8, hidden=16)


def test_dense_applies_to_all_leading_dimensions():
    dense = Dense(3, activation="gelu")
    x = random(2, 5, 4)
    dense(x)
    dense.bias.assign([0.1, -0.2, 0.3])
    wanted = keras.activations.gelu(np.einsum("bnd,du->bnu", x, dense.kernel) + dense.bias, approximate=False)
    np.testing.assert_allclose(dense(x), wanted, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 8)])
def test_layer_norm_is_equal_at_known_and_unknown_batch_size(shape):
    norm = LayerNorm()
    x = 3.0 * random(*shape) + 7.0
    norm(x)
    norm.gamma.assign(random(8))
    norm.beta.assign(random(8) + 1.0)
    served = tf.function(norm.call, input_signature=[tf.TensorSpec([None, *shape[1:]])])
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    variance = tf.reduce_mean(centred**2, axis=-1, keepdims=True)
    wanted = centred / tf.sqrt(variance + 1e-6) * norm.gamma + norm.beta
    np.testing.assert_allclose(norm(x), wanted, atol=1e-5)
    np.testing.assert_allclose(served(x), wanted, atol=1e-5)


def test_block_is_equal_at_known_and_unknown_batch_size():
    block = Block(SIZE)
    x = random(3, 5, 8)
    served = tf.function(lambda x: block(x), input_signature=[tf.TensorSpec([None, 5, 8])])
    np.testing.assert_allclose(served(x), block(x), atol=1e-5)


@pytest.fixture
def bfloat16():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    yield
    keras.mixed_precision.set_dtype_policy("float32")


def twin(block: Block, **options) -> Block:
    """A block under the current policy with the weights of another."""
    other = Block(SIZE, **options)
    other(random(1, 5, 8))
    for variable, value in zip(other.trainable_variables, block.trainable_variables, strict=True):
        variable.assign(value)
    return other


def test_bfloat16_block_is_close_to_float32(causal_block, bfloat16):
    low = twin(causal_block, causal=True)
    x = random(2, 5, 8)
    assert low.expand(low.norm_2(x)).dtype == tf.bfloat16
    assert low(x).dtype == tf.float32
    np.testing.assert_allclose(low(x), causal_block(x), atol=0.03)
    assert np.abs(low(x) - causal_block(x)).max() > 0.0


def test_layer_norm_and_residual_stream_are_float32_under_bfloat16(bfloat16):
    block = Block(SIZE)
    block(random(1, 5, 8))
    # Around 64 bfloat16 has steps of 1/4 and 1/2: a bfloat16 residual stream would lose the 0.05 noise.
    x = 64.0 + 0.05 * random(1, 5, 8)
    for layer in (block.attention.out, block.contract):
        layer.kernel.assign(tf.zeros_like(layer.kernel))
    np.testing.assert_array_equal(block(x), x)
    np.testing.assert_allclose(np.std(block.norm_1(x), axis=-1), 1.0, atol=0.01)


def test_attention_softmax_is_float32_and_finite_under_bfloat16(bfloat16, monkeypatch):
    seen = []
    softmax = tf.nn.softmax
    monkeypatch.setattr(tf.nn, "softmax", lambda scores: seen.append(softmax(scores)) or seen[-1])
    attention = SelfAttention(SIZE, causal=True, dropout=0.0)
    output = attention(1e4 * random(2, 5, 8))
    assert seen[0].dtype == tf.float32
    np.testing.assert_allclose(tf.reduce_sum(seen[0], axis=-1), 1.0, atol=1e-6)
    assert np.all(np.isfinite(tf.cast(output, tf.float32)))


def test_decoded_positions_match_the_full_call_under_bfloat16(bfloat16):
    keras.utils.set_random_seed(0)
    block = Block(SIZE, causal=True, qk_norm=True)
    x = random(3, 5, 8)
    np.testing.assert_allclose(block(x), decoded(block, x), atol=0.03)


def normalized(x: np.ndarray, layer: LayerNorm) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    x /= np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
    return x * layer.gamma.numpy() + layer.beta.numpy()


def dense(x: np.ndarray, layer: Dense) -> np.ndarray:
    return x @ layer.kernel.numpy() + layer.bias.numpy()


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def block_of_numpy(block: Block, x: np.ndarray, masks: list[np.ndarray]) -> np.ndarray:
    """A pre-norm block [B, N, D] in float64, with four masks for its dropouts."""
    attention, (rows, length, width) = block.attention, x.shape
    heads = dense(normalized(x, block.norm_1), attention.qkv).reshape(rows, length, 3, attention.heads, -1)
    queries, keys, values = heads.transpose(2, 0, 3, 1, 4)
    scores = queries @ keys.swapaxes(-1, -2) / math.sqrt(width / attention.heads)
    if attention.causal:
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = masks[0] * weights / weights.sum(axis=-1, keepdims=True)
    mixed = (weights @ values).transpose(0, 2, 1, 3).reshape(x.shape)
    x = x + masks[1] * dense(mixed, attention.out)
    hidden = masks[2] * gelu(dense(normalized(x, block.norm_2), block.expand))
    return x + masks[3] * dense(hidden, block.contract)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_block_and_its_dropouts_match_numpy(causal, training, monkeypatch):
    block = Block(SIZE, causal=causal, dropout=0.25)
    block(random(1, 5, 8))
    for index, weight in enumerate(block.trainable_variables):
        weight.assign(tf.random.stateless_normal(weight.shape, [7, index]))
    masks: list[np.ndarray] = []
    dropout = tf.nn.experimental.stateless_dropout

    def watched(x: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
        masks.append(dropout(tf.ones_like(x), rate, seed).numpy())
        return dropout(x, rate, seed)

    monkeypatch.setattr(tf.nn.experimental, "stateless_dropout", watched)
    x = random(2, 5, 8)
    found = block(x, training=training)
    if training:
        assert [mask.shape for mask in masks] == [(2, 2, 5, 5), (2, 5, 8), (2, 5, 16), (2, 5, 8)]
        for mask in masks:
            assert set(np.unique(mask)) == {0.0, np.float32(1 / 0.75)}
        # Each has a seed of its own.
        begins = {mask.ravel()[:80].tobytes() for mask in masks}
        assert len(begins) == len(masks)
    kept = masks if training else [np.ones(1)] * 4
    np.testing.assert_allclose(
        found, block_of_numpy(block, x.numpy().astype(float), kept), rtol=1e-4, atol=1e-4
    )


def test_a_stack_of_blocks_has_dropout_in_training_alone():
    stack = [Block(SIZE, dropout=0.5)]
    x = random(2, 5, 8)
    np.testing.assert_array_equal(run_blocks(stack, x, training=False), run_blocks(stack, x, training=False))
    assert np.abs(run_blocks(stack, x, training=True) - run_blocks(stack, x, training=False)).max() > 1e-3


@pytest.mark.parametrize("qk_norm", [False, True])
def test_bias_of_keys_has_a_gradient_only_behind_a_norm(qk_norm):
    block = Block(SIZE, qk_norm=qk_norm)
    block(random(1, 5, 8))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(block(random(2, 5, 8)) ** 2)
    gradient = tape.gradient(loss, block.attention.qkv.bias.value).numpy()
    of_queries, of_keys, of_values = np.split(gradient, 3)
    assert (np.abs(of_keys).max() > 0) == qk_norm
    assert np.abs(of_queries).max() > 0
    assert np.abs(of_values).max() > 0


@pytest.mark.slow
def test_recomputed_block_with_dropout_holds_no_more_than_one_without():
    """XLA keeps the random bits of a recomputed block, unless they depend on its input."""
    size, rows, length = Transformer(blocks=1, heads=4, width=64, hidden=256), 4, 64

    def held(blocks: int, dropout: float) -> int:
        stack = [Block(size, causal=True, dropout=dropout) for _ in range(blocks)]
        for block in stack:
            block.build((rows, length, size.width))
        weights = [variable.value for block in stack for variable in block.trainable_variables]

        def gradients(x: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = run_blocks(stack, x, training=True, memory=CHECKPOINTED)
                loss = tf.reduce_sum(y * y)
            return tape.gradient(loss, [x, *weights])

        return hlo.count(gradients, random(rows, length, size.width)).held

    without, with_dropout = (held(4, dropout) - held(2, dropout) for dropout in (0.0, 0.1))
    assert with_dropout < 1.1 * without  # 1.25 if the bits are kept


def gradients_of(blocks: list[Block], *, gradient_checkpointing: bool, jit_compile: bool) -> list[np.ndarray]:
    weights = [v.value for block in blocks for v in block.trainable_variables]
    for block in blocks:  # the same dropout in every call
        for seed in block.non_trainable_variables:
            seed.assign([1, 2])

    @tf.function(jit_compile=jit_compile)
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(
                run_blocks(blocks, x, training=True, memory=Memory(gradient_checkpointing)) ** 2
            )
        return tape.gradient(loss, [x, *weights])

    return [gradient.numpy() for gradient in gradients(random(2, 5, 8))]


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_gives_the_same_gradients(dropout, jit_compile):
    blocks = [Block(SIZE, dropout=dropout) for _ in range(2)]
    for block in blocks:
        block(random(1, 5, 8))
    kept = gradients_of(blocks, gradient_checkpointing=False, jit_compile=jit_compile)
    recomputed = gradients_of(blocks, gradient_checkpointing=True, jit_compile=jit_compile)
    for one, other in zip(kept, recomputed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize(("gradient_checkpointing", "kept"), [(False, 3), (True, 0)])
def test_gradient_checkpointing_frees_attention_weights(gradient_checkpointing, kept, monkeypatch):
    seen = []
    softmax = tf.nn.softmax

    def watched(scores):
        weights = softmax(scores)
        seen.append(weakref.ref(weights))
        return weights

    monkeypatch.setattr(tf.nn, "softmax", watched)
    blocks = [Block(SIZE) for _ in range(3)]
    for block in blocks:
        block(random(1, 5, 8))
    seen.clear()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(
            run_blocks(blocks, random(1, 5, 8), training=True, memory=Memory(gradient_checkpointing))
        )
        gc.collect()
        assert sum(weights() is not None for weights in seen) == kept
    assert tape.gradient(loss, blocks[0].norm_1.gamma.value) is not None


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_repeated_gradients_are_bit_identical(jit_compile):
    blocks = [Block(SIZE, dropout=0.1) for _ in range(2)]
    for block in blocks:
        block(random(1, 5, 8))
    first = gradients_of(blocks, gradient_checkpointing=False, jit_compile=jit_compile)
    second = gradients_of(blocks, gradient_checkpointing=False, jit_compile=jit_compile)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
