import numpy as np
import pytest
import tensorflow as tf

from tests.trainers.precision import bfloat16
from trainers.vit_vqgan import quantizer
from trainers.vit_vqgan.config import VQ
from trainers.vit_vqgan.quantizer import VectorQuantizer


def with_codes(codes: list[list[float]], **options) -> VectorQuantizer:
    layer = VectorQuantizer(VQ(size=len(codes), dim=len(codes[0]), **options), seed=0)
    layer.embedding.assign(codes)
    return layer


def test_nearest_code_on_the_sphere_is_the_greatest_cosine():
    layer = with_codes([[10.0, 0.0], [0.0, 0.1]])
    z = tf.constant([[[0.2, 0.1], [3.0, 4.0]]])
    assert layer(z).tokens.numpy().tolist() == [[0, 1]]
    np.testing.assert_allclose(layer(z).codes, [[[1.0, 0.0], [0.0, 1.0]]], atol=1e-6)


def test_nearest_code_without_normalization_is_euclidean():
    layer = with_codes([[10.0, 0.0], [0.0, 0.1]], l2_normalized=False)
    z = tf.constant([[[2.0, 0.0], [9.0, 0.0]]])
    # The cosine of both with the first code is 1, yet (2, 0) lies nearer to (0, 0.1).
    assert layer(z).tokens.numpy().tolist() == [[1, 0]]


def test_loss_is_equation_1():
    layer = with_codes([[1.0, 0.0]], l2_normalized=False, beta=0.25)
    loss = layer(tf.constant([[[3.0, 2.0]]])).loss
    # ||z - e||^2 = 4 + 4, a mean over two dimensions, once whole and once by beta.
    assert loss.numpy() == pytest.approx(1.25 * 8.0 / 2)


def test_commitment_moves_the_encoder_by_beta_and_codes_move_by_the_rest():
    layer = with_codes([[1.0, 0.0]], l2_normalized=False, beta=0.25)
    z = tf.constant([[[3.0, 2.0]]])
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = layer(z).loss
    to_z, to_codes = tape.gradient(loss, [z, layer.embedding.value])
    # d/dz beta (z - e)^2 / 2 dims = beta (z - e); d/de (z - e)^2 / 2 dims = -(z - e).
    np.testing.assert_allclose(to_z, [[[0.25 * 2.0, 0.25 * 2.0]]], rtol=1e-6)
    np.testing.assert_allclose(tf.convert_to_tensor(to_codes), [[-2.0, -2.0]], rtol=1e-6)


def test_straight_through_passes_the_gradient_to_the_encoder_and_none_to_the_codes():
    layer = with_codes([[1.0, 0.0], [0.0, 1.0]], l2_normalized=False)
    z = tf.constant([[[0.9, 0.2]]])
    with tf.GradientTape() as tape:
        tape.watch(z)
        target = tf.reduce_sum(layer(z).codes * [[[2.0, -3.0]]])
    to_z, to_codes = tape.gradient(target, [z, layer.embedding.value])
    np.testing.assert_allclose(to_z, [[[2.0, -3.0]]])
    assert to_codes is None


def test_lookup_gives_what_the_forward_pass_gave():
    layer = with_codes([[3.0, 4.0], [1.0, 0.0]])
    result = layer(tf.constant([[[0.6, 0.7], [1.0, 0.1]]]))
    np.testing.assert_allclose(layer.lookup(result.tokens), result.codes, atol=1e-6)


def test_the_sum_over_dimensions_is_as_many_times_the_mean():
    z = tf.random.stateless_normal([2, 3, 4], seed=[0, 0])
    codes = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]
    mean, total = (with_codes(codes, reduction=reduction)(z).loss for reduction in ("mean", "sum"))
    assert total.numpy() == pytest.approx(4 * mean.numpy(), rel=1e-6)


def train_step(layer: VectorQuantizer, z: tf.Tensor) -> quantizer.Quantized:
    """One step of training on a batch of latents [B, N, dim]."""
    result = layer(z, training=True)
    candidates = None
    if layer.options.revive_below:
        candidates = layer.candidates(result.latents, tf.range(z.shape[0]), z.shape[0])
    layer.update_codebook(quantizer.token_shares(result.tokens, layer.options.size), candidates)
    return result


def test_dead_codes_are_revived_onto_encoder_outputs_and_living_ones_stay():
    layer = with_codes([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]], revive_below=0.5)
    z = tf.constant([[[1.0, 0.2], [1.0, -0.2]]])
    for _ in range(20):
        train_step(layer, z)
    outputs = tf.math.l2_normalize(z, axis=-1).numpy()[0]
    first, *revived = layer.embedding.numpy()
    np.testing.assert_array_equal(first, [1.0, 0.0])
    for code in revived:
        assert np.abs(outputs - code).sum(axis=-1).min() < 1e-6


def test_without_revival_training_leaves_dead_codes_alone():
    layer = with_codes([[1.0, 0.0], [-1.0, 0.0]])
    for _ in range(50):
        train_step(layer, tf.constant([[[1.0, 0.2]]]))
    np.testing.assert_array_equal(layer.embedding.numpy(), [[1.0, 0.0], [-1.0, 0.0]])


def test_candidates_are_those_of_the_whole_batch_however_it_is_cut():
    layer = with_codes([[1.0, 0.0]] * 50, revive_below=0.5)
    latents = tf.random.stateless_normal([4, 3, 2], seed=[0, 0])
    whole = layer.candidates(latents, tf.range(4), 4)
    parts = [layer.candidates(latents[i : i + 2], tf.range(i, i + 2), 4) for i in (0, 2)]
    np.testing.assert_allclose(tf.reduce_mean(parts, axis=0), whole, rtol=1e-6)
    drawn = {tuple(row) for row in whole.numpy().tolist()}
    assert drawn <= {tuple(row) for row in latents.numpy().reshape(-1, 2).tolist()}
    assert len(drawn) > 6


def test_candidates_are_drawn_anew_each_step():
    layer = with_codes([[1.0, 0.0]] * 50, revive_below=0.5)
    latents = tf.random.stateless_normal([4, 3, 2], seed=[0, 0])
    first = layer.candidates(latents, tf.range(4), 4)
    layer.steps.assign_add(1)
    assert np.abs(first - layer.candidates(latents, tf.range(4), 4)).max() > 0.1


def test_continuous_steps_pass_the_latents_and_then_place_all_codes():
    layer = with_codes([[0.0, -1.0], [-1.0, 0.0]], revive_below=0.5, continuous_steps=2)
    z = tf.constant([[[3.0, 4.0]]])
    for _ in range(2):
        result = train_step(layer, z)
        np.testing.assert_allclose(result.codes, [[[0.6, 0.8]]], rtol=1e-6)
        assert result.loss.numpy() == 0.0
    assert train_step(layer, z).loss.numpy() == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(layer.embedding.numpy(), [[0.6, 0.8], [0.6, 0.8]], rtol=1e-6)


def test_entropy_loss_is_lowest_where_tokens_are_sure_and_codes_used_alike():
    axes = np.eye(4, dtype="float32").tolist()
    layer = with_codes(axes)
    assert layer.entropy_loss(tf.constant([axes])).numpy() == pytest.approx(-np.log(4), rel=1e-5)
    # All tokens on one code: sure, but H(E[p]) is 0 too.
    assert layer.entropy_loss(tf.constant([[axes[0]] * 4])).numpy() == pytest.approx(0.0, abs=1e-5)
    # Tokens between all codes: H(p) = H(E[p]) = ln 4.
    between = tf.fill([1, 4, 4], 0.5)
    assert layer.entropy_loss(between).numpy() == pytest.approx(0.0, abs=1e-5)


def test_close_codes_are_told_apart_under_a_policy_of_low_precision():
    with bfloat16():
        # Cosines with z differ in the sixth digit; bfloat16 has three.
        layer = with_codes([[1.0, 2e-3], [1.0, 0.0], [1.0, -2e-3]])
        result = layer(tf.constant([[[1.0, 0.0], [1.0, 1.5e-3], [1.0, -1.5e-3]]]))
    assert result.tokens.numpy().tolist() == [[1, 0, 2]]
    assert result.codes.dtype == result.loss.dtype == tf.float32


def test_usage_and_perplexity_in_closed_form():
    shares = quantizer.token_shares(tf.constant([[0, 0], [1, 1]]), 4)
    np.testing.assert_allclose(shares, [0.5, 0.5, 0.0, 0.0])
    assert quantizer.usage(shares).numpy() == 0.5
    assert quantizer.perplexity(shares).numpy() == pytest.approx(2.0)
    assert quantizer.perplexity(tf.fill([8], 0.125)).numpy() == pytest.approx(8.0)
