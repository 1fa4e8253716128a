import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.training.config import Transformer
from trainers.transformer import Block, Dense, LayerNorm, SelfAttention

SIZE = Transformer(blocks=1, heads=2, width=8, hidden=16)


def random(*shape: int) -> tf.Tensor:
    return tf.random.stateless_normal(shape, seed=[1, 2])


@pytest.fixture
def causal_block() -> Block:
    block = Block(SIZE, causal=True)
    block(random(1, 5, 8))
    return block


def test_causal_output_does_not_depend_on_later_places(causal_block):
    x = random(2, 5, 8)
    changed = tf.concat([x[:, :3], x[:, 3:] + 1.0], axis=1)
    before, after = causal_block(x), causal_block(changed)
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert np.abs(before[:, 3:] - after[:, 3:]).min() > 1e-3


def test_without_causal_every_place_sees_every_other():
    block = Block(SIZE)
    x = random(1, 5, 8)
    changed = tf.concat([x[:, :4], -x[:, 4:]], axis=1)
    assert np.abs(block(x)[:, 0] - block(changed)[:, 0]).max() > 1e-3


def test_stepping_with_the_cache_equals_the_whole_call(causal_block):
    x = random(3, 5, 8)
    # What the cache holds ahead of the position must not matter.
    cache = (tf.fill([5, 3, 2, 4], 7.0), tf.fill([5, 3, 2, 4], -3.0))
    outputs = []
    for place in range(5):
        output, cache = causal_block.step(x[:, place], cache, tf.constant(place))
        outputs.append(output)
    np.testing.assert_allclose(tf.stack(outputs, axis=1), causal_block(x), atol=1e-5)


def test_attention_is_the_textbook_formula():
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
    with pytest.raises(ValueError, match="heads 3 does not divide width 8"):
        Transformer(blocks=1, heads=3, width=8, hidden=16)


def test_dense_is_the_product_of_all_leading_places():
    dense = Dense(3, activation="gelu")
    x = random(2, 5, 4)
    dense(x)
    dense.bias.assign([0.1, -0.2, 0.3])
    wanted = keras.activations.gelu(np.einsum("bnd,du->bnu", x, dense.kernel) + dense.bias, approximate=False)
    np.testing.assert_allclose(dense(x), wanted, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 8)])
def test_layer_norm_is_the_same_at_known_and_unknown_batch_sizes(shape):
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


def test_a_block_at_an_unknown_batch_size_answers_as_at_a_known_one():
    block = Block(SIZE)
    x = random(3, 5, 8)
    served = tf.function(lambda x: block(x), input_signature=[tf.TensorSpec([None, 5, 8])])
    np.testing.assert_allclose(served(x), block(x), atol=1e-5)


def test_served_on_a_cpu_norms_and_gelu_are_fused():
    if not tf.config.list_physical_devices("CPU") or not _onednn():
        pytest.skip("TensorFlow's oneDNN kernels are off here")
    block = Block(SIZE)
    block(random(1, 5, 8))
    served = tf.function(lambda x: block(x), input_signature=[tf.TensorSpec([None, 5, 8])])
    served(random(2, 5, 8))
    assert {"Erf", "Rsqrt", "FusedBatchNormV3"}.isdisjoint(_executed(served, random(2, 5, 8)))
