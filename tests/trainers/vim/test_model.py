import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainers.precision import bfloat16
from trainers.training.config import Transformer
from trainers.vim.config import Model
from trainers.vim.model import VIM
from trainers.vim.trainer import losses

CODES, PLACES, CLASSES = 50, 6, 3
SIZE = Transformer(blocks=2, heads=2, width=16, hidden=32)
ANNEALED = {"anneal_from": 0, "anneal_until": 1}


def model(**options) -> VIM:
    keras.utils.set_random_seed(0)
    return VIM(Model(transformer=SIZE, **options), tokens=PLACES, codebook_size=CODES, classes=CLASSES)


def rows(count: int = 3) -> tf.Tensor:
    return tf.random.stateless_uniform([count, PLACES], seed=[1, 1], maxval=CODES, dtype=tf.int32)


def test_untrained_loss_is_log_of_codebook_size():
    nats = -model().log_likelihood(rows(200), tf.zeros([200], tf.int32)) / PLACES
    assert np.mean(nats) == pytest.approx(np.log(CODES), rel=0.01)


def test_logits_depend_on_earlier_tokens_only():
    vim = model()
    changed = tf.concat([rows()[:, :3], (rows()[:, 3:] + 1) % CODES], axis=1)
    class_id = tf.constant([0, 1, 2])
    before, after = vim(rows(), class_id), vim(changed, class_id)
    np.testing.assert_allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert np.abs(before[:, 4:] - after[:, 4:]).max() > 1e-4


def test_log_likelihood_sums_log_probabilities_of_the_tokens():
    vim = model()
    class_id = tf.constant([0, 1, 2])
    probabilities = tf.nn.softmax(vim(rows(), class_id)).numpy()
    chosen = np.take_along_axis(probabilities, rows().numpy()[..., None], axis=-1)
    np.testing.assert_allclose(
        vim.log_likelihood(rows(), class_id), np.log(chosen).sum(axis=(1, 2)), rtol=1e-4
    )


def test_class_affects_only_a_conditional_model():
    conditional, unconditional = model(), model(class_conditional=False)
    zeros, twos = tf.fill([3], 0), tf.fill([3], 2)
    assert np.any(conditional.log_likelihood(rows(), zeros) != conditional.log_likelihood(rows(), twos))
    np.testing.assert_array_equal(
        unconditional.log_likelihood(rows(), zeros), unconditional.log_likelihood(rows(), twos)
    )
    assert unconditional.class_embedding.shape == (1, 16)


def test_features_are_position_means_of_each_block_without_a_class():
    vim = model()
    features = vim.features(rows())
    assert features.shape == (3, 2, 16)
    start = tf.gather(vim.class_embedding, tf.fill([3, 1], vim.no_class))
    x = tf.concat([start, tf.gather(vim.token_embedding, rows()[:, :-1])], axis=1) + vim.positions
    for index, block in enumerate(vim.blocks):
        x = block(x)
        np.testing.assert_allclose(features[:, index], tf.reduce_mean(x, axis=1), atol=1e-5)


def test_embedding_tables_start_with_different_values():
    vim = model()
    tables = [vim.token_embedding, vim.class_embedding, vim.positions]
    for index, one in enumerate(tables):
        for other in tables[index + 1 :]:
            assert np.abs(one.numpy()[0] - other.numpy()[0]).max() > 1e-3


def test_only_position_embeddings_distinguish_positions():
    vim = model()
    ones = tf.ones([1, PLACES], tf.int32)
    logits = vim(ones, tf.constant([0]))
    assert np.abs(logits[0, 2] - logits[0, 4]).max() > 1e-5
    vim.positions.assign(tf.zeros_like(vim.positions))
    vim.class_embedding.assign(tf.repeat(vim.token_embedding[1:2], 4, axis=0))
    logits = vim(ones, tf.constant([0]))
    np.testing.assert_allclose(logits[0, 2], logits[0, 4], atol=1e-6)


def test_the_start_has_no_position_of_its_own():
    vim = model(random_order=ANNEALED)
    embeddings = vim.position_embeddings().numpy()
    np.testing.assert_allclose(embeddings[0], vim.positions.numpy()[0])
    np.testing.assert_allclose(embeddings[1:], vim.positions.numpy()[1:] + vim.own_positions.numpy()[:-1])


def test_dropout_acts_in_training_alone():
    vim = model(dropout=0.5)
    tokens, class_id = rows(1), tf.constant([1])
    np.testing.assert_array_equal(vim(tokens, class_id), vim(tokens, class_id))
    assert np.abs(vim(tokens, class_id, training=True) - vim(tokens, class_id)).max() > 1e-3


def test_explicit_raster_order_equals_the_default_order():
    vim = model(random_order=ANNEALED)
    raster = tf.tile(tf.range(PLACES)[tf.newaxis], [3, 1])
    class_id = tf.constant([0, 1, 2])
    np.testing.assert_allclose(vim(rows(), class_id, order=raster), vim(rows(), class_id), atol=1e-6)


def test_custom_order_conditions_on_earlier_tokens_and_next_position():
    vim = model(random_order=ANNEALED)
    order = tf.constant([[3, 0, 5, 1, 4, 2]])
    tokens, class_id = rows(1), tf.constant([1])
    logits = vim(tokens, class_id, order=order)
    # Position 5 comes third: its token may change the logits from the fourth on.
    changed = vim(
        tf.tensor_scatter_nd_update(tokens, [[0, 5]], [(tokens[0, 5] + 1) % CODES]), class_id, order
    )
    np.testing.assert_allclose(logits[:, :3], changed[:, :3], atol=1e-6)
    assert np.abs(logits[:, 3] - changed[:, 3]).max() > 1e-5
    # The same tokens come before, but another position is predicted.
    other = vim(tokens, class_id, order=tf.constant([[3, 0, 4, 1, 5, 2]]))
    np.testing.assert_allclose(logits[:, :2], other[:, :2], atol=1e-6)
    assert np.abs(logits[:, 2] - other[:, 2]).max() > 1e-5


def test_logits_and_residual_stream_are_float32_under_bfloat16():
    exact = model()
    with bfloat16():
        rough = model()
    class_id = tf.constant([0, 1, 2])
    logits = rough(rows(), class_id)
    assert logits.dtype == tf.float32
    assert np.mean(logits == tf.cast(tf.cast(logits, tf.bfloat16), tf.float32)) < 0.1
    np.testing.assert_allclose(logits, exact(rows(), class_id), atol=0.01)

    seen = []
    first = rough.blocks[0]
    rough.blocks[0] = lambda x, **options: seen.append(x) or first(x, **options)
    rough(rows(), tf.fill([3], rough.no_class))
    rough.features(rows())
    called, featured = seen
    assert called.dtype == featured.dtype == tf.float32
    np.testing.assert_array_equal(called, featured)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_row_without_a_label_starts_without_a_class(jit_compile):
    vim = model(class_dropout=0.1)

    @tf.function(jit_compile=jit_compile)
    def loss(labels: tf.Tensor) -> tf.Tensor:
        return losses(vim, {"tokens": rows(2), "label": labels}, training=False)["loss"]

    without = loss(tf.fill([2], -1))
    assert float(without) == pytest.approx(float(loss(tf.fill([2], vim.no_class))), rel=1e-6)
    assert float(without) != float(loss(tf.zeros([2], tf.int32)))
    assert model(class_conditional=False).start(tf.constant([0, 2])).numpy().tolist() == [0, 0]
