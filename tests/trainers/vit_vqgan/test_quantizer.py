import numpy as np
import pytest
import tensorflow as tf

from tests.trainers.precision import bfloat16
from trainers.vit_vqgan import quantizer
from trainers.vit_vqgan.config import FSQ, VQ
from trainers.vit_vqgan.quantizer import FiniteScalarQuantizer, VectorQuantizer


def with_codes(codes: list[list[float]], **options) -> VectorQuantizer:
    layer = VectorQuantizer(VQ(size=len(codes), dim=len(codes[0]), **options), seed=0)
    layer.embedding.assign(codes)
    return layer


def test_nearest_code_with_normalization_has_the_greatest_cosine():
    layer = with_codes([[10.0, 0.0], [0.0, 0.1]])
    z = tf.constant([[[0.2, 0.1], [3.0, 4.0]]])
    assert layer(z).tokens.numpy().tolist() == [[0, 1]]
    np.testing.assert_allclose(layer(z).codes, [[[1.0, 0.0], [0.0, 1.0]]], atol=1e-6)


def test_tokens_are_int32_as_the_contract_says():
    for layer in (
        with_codes([[1.0, 0.0], [0.0, 1.0]]),
        FiniteScalarQuantizer(FSQ(kind="fsq", levels=(3, 5)), seed=0),
    ):
        assert layer(tf.zeros([1, 3, 2]) + 0.1).tokens.dtype == tf.int32


def test_nearest_code_without_normalization_is_euclidean():
    layer = with_codes([[10.0, 0.0], [0.0, 0.1]], l2_normalized=False)
    z = tf.constant([[[2.0, 0.0], [9.0, 0.0]]])
    # Both have cosine 1 with the first code, but (2, 0) is nearer to (0, 0.1).
    assert layer(z).tokens.numpy().tolist() == [[1, 0]]


def test_loss_is_equation_1():
    layer = with_codes([[1.0, 0.0]], l2_normalized=False, beta=0.25)
    loss = layer(tf.constant([[[3.0, 2.0]]])).loss
    # ||z - e||^2 = 4 + 4, a mean over two dimensions, once with weight 1 and once with weight beta.
    assert loss.numpy() == pytest.approx(1.25 * 8.0 / 2)


def test_loss_trains_the_encoder_with_weight_beta_and_codes_with_one():
    layer = with_codes([[1.0, 0.0]], l2_normalized=False, beta=0.25)
    z = tf.constant([[[3.0, 2.0]]])
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = layer(z).loss
    to_z, to_codes = tape.gradient(loss, [z, layer.embedding.value])
    # d/dz beta (z - e)^2 / 2 dims = beta (z - e); d/de (z - e)^2 / 2 dims = -(z - e).
    np.testing.assert_allclose(to_z, [[[0.25 * 2.0, 0.25 * 2.0]]], rtol=1e-6)
    np.testing.assert_allclose(tf.convert_to_tensor(to_codes), [[-2.0, -2.0]], rtol=1e-6)


def test_straight_through_gradient_reaches_the_encoder_only():
    layer = with_codes([[1.0, 0.0], [0.0, 1.0]], l2_normalized=False)
    z = tf.constant([[[0.9, 0.2]]])
    with tf.GradientTape() as tape:
        tape.watch(z)
        target = tf.reduce_sum(layer(z).codes * [[[2.0, -3.0]]])
    to_z, to_codes = tape.gradient(target, [z, layer.embedding.value])
    np.testing.assert_allclose(to_z, [[[2.0, -3.0]]])
    assert to_codes is None


def test_lookup_equals_the_codes_of_the_forward_pass():
    layer = with_codes([[3.0, 4.0], [1.0, 0.0]])
    result = layer(tf.constant([[[0.6, 0.7], [1.0, 0.1]]]))
    np.testing.assert_allclose(layer.lookup(result.tokens), result.codes, atol=1e-6)


def test_sum_reduction_is_dim_times_the_mean_reduction():
    z = tf.random.stateless_normal([2, 3, 4], seed=[0, 0])
    codes = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]
    mean, total = (with_codes(codes, reduction=reduction)(z).loss for reduction in ("mean", "sum"))
    assert total.numpy() == pytest.approx(4 * mean.numpy(), rel=1e-6)


def train_step(layer: VectorQuantizer, z: tf.Tensor) -> quantizer.Quantized:
    """Run one training step on a batch of latents [B, N, dim]."""
    result = layer(z, training=True)
    candidates = None
    if layer.options.revive_below:
        candidates = layer.candidates(result.latents, tf.range(z.shape[0]), z.shape[0])
    layer.update_codebook(quantizer.token_shares(result.tokens, layer.options.size), candidates)
    return result


def test_dead_codes_move_to_encoder_outputs_and_used_codes_stay():
    layer = with_codes([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]], revive_below=0.5)
    z = tf.constant([[[1.0, 0.2], [1.0, -0.2]]])
    for _ in range(20):
        train_step(layer, z)
    outputs = tf.math.l2_normalize(z, axis=-1).numpy()[0]
    first, *revived = layer.embedding.numpy()
    np.testing.assert_array_equal(first, [1.0, 0.0])
    for code in revived:
        assert np.abs(outputs - code).sum(axis=-1).min() < 1e-6


def test_dead_codes_do_not_change_without_revival():
    layer = with_codes([[1.0, 0.0], [-1.0, 0.0]])
    for _ in range(50):
        train_step(layer, tf.constant([[[1.0, 0.2]]]))
    np.testing.assert_array_equal(layer.embedding.numpy(), [[1.0, 0.0], [-1.0, 0.0]])


def test_candidates_do_not_depend_on_the_split_into_micro_batches():
    layer = with_codes([[1.0, 0.0]] * 50, revive_below=0.5)
    latents = tf.random.stateless_normal([4, 3, 2], seed=[0, 0])
    whole = layer.candidates(latents, tf.range(4), 4)
    parts = [layer.candidates(latents[i : i + 2], tf.range(i, i + 2), 4) for i in (0, 2)]
    np.testing.assert_allclose(tf.reduce_mean(parts, axis=0), whole, rtol=1e-6)
    drawn = {tuple(row) for row in whole.numpy().tolist()}
    assert drawn <= {tuple(row) for row in latents.numpy().reshape(-1, 2).tolist()}
    assert len(drawn) > 6


def test_candidates_are_resampled_at_each_step():
    layer = with_codes([[1.0, 0.0]] * 50, revive_below=0.5)
    latents = tf.random.stateless_normal([4, 3, 2], seed=[0, 0])
    first = layer.candidates(latents, tf.range(4), 4)
    layer.steps.assign_add(1)
    assert np.abs(first - layer.candidates(latents, tf.range(4), 4)).max() > 0.1


def test_continuous_steps_pass_latents_and_then_move_all_codes():
    layer = with_codes([[0.0, -1.0], [-1.0, 0.0]], revive_below=0.5, continuous_steps=2)
    z = tf.constant([[[3.0, 4.0]]])
    for _ in range(2):
        result = train_step(layer, z)
        np.testing.assert_allclose(result.codes, [[[0.6, 0.8]]], rtol=1e-6)
        assert result.loss.numpy() == 0.0
    assert train_step(layer, z).loss.numpy() == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(layer.embedding.numpy(), [[0.6, 0.8], [0.6, 0.8]], rtol=1e-6)


def test_entropy_loss_is_lowest_for_certain_tokens_and_uniform_usage():
    axes = np.eye(4, dtype="float32").tolist()
    layer = with_codes(axes)
    assert layer.entropy_loss(tf.constant([axes])).numpy() == pytest.approx(-np.log(4), rel=1e-5)
    # All tokens on one code: H(p) is 0, but H(E[p]) is 0 too.
    assert layer.entropy_loss(tf.constant([[axes[0]] * 4])).numpy() == pytest.approx(0.0, abs=1e-5)
    # Tokens between all codes: H(p) = H(E[p]) = ln 4.
    between = tf.fill([1, 4, 4], 0.5)
    assert layer.entropy_loss(between).numpy() == pytest.approx(0.0, abs=1e-5)


def test_close_codes_are_distinguished_under_bfloat16():
    with bfloat16():
        # Cosines with z differ in the sixth digit; bfloat16 has three.
        layer = with_codes([[1.0, 2e-3], [1.0, 0.0], [1.0, -2e-3]])
        result = layer(tf.constant([[[1.0, 0.0], [1.0, 1.5e-3], [1.0, -1.5e-3]]]))
    assert result.tokens.numpy().tolist() == [[1, 0, 2]]
    assert result.codes.dtype == result.loss.dtype == tf.float32


def test_usage_and_perplexity_match_closed_form():
    shares = quantizer.token_shares(tf.constant([[0, 0], [1, 1]]), 4)
    np.testing.assert_allclose(shares, [0.5, 0.5, 0.0, 0.0])
    assert quantizer.usage(shares).numpy() == 0.5
    assert quantizer.perplexity(shares).numpy() == pytest.approx(2.0)
    assert quantizer.perplexity(tf.fill([8], 0.125)).numpy() == pytest.approx(8.0)


def grid(*levels: int) -> FiniteScalarQuantizer:
    return FiniteScalarQuantizer(FSQ(kind="fsq", levels=levels), seed=0)


def test_fsq_reaches_every_level_and_no_other():
    z = tf.linspace(-8.0, 8.0, 2001)[tf.newaxis, :, tf.newaxis]
    for levels, expected in ((5, [-1.0, -0.5, 0.0, 0.5, 1.0]), (4, [-1.0, -0.5, 0.0, 0.5])):
        result = grid(levels)(z)
        assert np.unique(result.codes.numpy().round(6)).tolist() == expected
        assert np.unique(result.tokens).tolist() == list(range(levels))
        assert np.all(np.diff(result.tokens.numpy().ravel()) >= 0)  # tokens follow the latent's order


def test_fsq_maps_zero_to_the_middle_level():
    result = grid(5, 4)(tf.zeros([1, 1, 2]))
    np.testing.assert_allclose(result.latents, 0.0, atol=1e-6)
    np.testing.assert_array_equal(result.codes, [[[0.0, 0.0]]])
    assert result.tokens.numpy().tolist() == [[2 + 5 * 2]]


def test_fsq_tokens_are_mixed_radix_numbers_and_lookup_inverts_them():
    layer = grid(3, 4, 2)
    codes = layer.lookup(tf.range(24)[tf.newaxis])
    assert codes.shape == (1, 24, 3)
    assert len(np.unique(codes.numpy()[0], axis=0)) == 24
    np.testing.assert_array_equal(codes[0, 0], [-1.0, -1.0, -1.0])
    np.testing.assert_array_equal(codes[0, 1], [0.0, -1.0, -1.0])  # the first dimension is the fastest
    # artanh of a code, a little shrunk, is quantized to that code.
    result = layer(tf.math.atanh(tf.clip_by_value(0.98 * codes, -0.98, 0.98)) * 4.0)
    np.testing.assert_allclose(layer.lookup(result.tokens), result.codes, atol=1e-6)


def test_fsq_gradient_is_that_of_the_bounded_latent():
    layer, z = grid(5), tf.constant([[[0.3], [-1.2]]])
    with tf.GradientTape() as tape:
        tape.watch(z)
        codes = layer(z).codes
    # d/dz tanh(z) h / (L // 2), with h = (L - 1) (1 + margin) / 2; rounding is skipped.
    expected = (1.0 - np.tanh(z) ** 2) * 2.0 * (1.0 + quantizer.FSQ_MARGIN) / 2.0
    np.testing.assert_allclose(tape.gradient(codes, z), expected, rtol=1e-5)


def test_fsq_learns_nothing_and_has_no_loss():
    layer = grid(5, 3)
    assert layer(tf.zeros([1, 2, 2])).loss.numpy() == 0.0
    assert layer.variables == []
    layer.post_step({"token_shares": tf.fill([15], 1 / 15)})
    assert layer.penalties(tf.zeros([1, 2, 2])) == {}
    assert layer.statistics(tf.zeros([1, 2, 2]), tf.range(1), 1) == {}


@pytest.mark.parametrize("levels", [(2,), (5, 3), (8, 5, 5, 5)])
def test_fsq_code_norm_is_the_root_mean_square_over_the_grid(levels):
    options = FSQ(kind="fsq", levels=levels)
    codes = grid(*levels).lookup(tf.range(options.size)[tf.newaxis])[0]
    assert options.dim == codes.shape[-1]
    assert options.code_norm == pytest.approx(np.sqrt((codes.numpy() ** 2).sum(axis=-1).mean()), rel=1e-6)
