import numpy as np
import pytest
import tensorflow as tf

from components.evaluators.linear_probe import probe


def dataset(features, labels):
    return tf.data.Dataset.from_tensor_slices((features.astype(np.float32), labels))


@pytest.fixture(scope="module")
def three_blocks():
    """Features of three blocks: zeros, features that separate the classes, and the same ones rescaled."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 6
    noise = rng.normal(size=[240, 8])
    telling = np.eye(6, 8)[labels] + 0.05 * noise
    return dataset(np.stack([np.zeros_like(noise), telling, 1e4 + 1e3 * telling], axis=1), labels)


def fit(data, seed=0, epochs=30):
    return probe.train(data, 240, 6, batch_size=32, epochs=epochs, learning_rate=0.03, seed=seed)


def test_accuracy_is_per_block_and_independent_of_feature_scale(three_blocks):
    accuracy = probe.evaluate(fit(three_blocks), three_blocks, 32)
    assert accuracy.top1[0] <= 1 / 6 + 1e-6
    assert accuracy.top1[1:].tolist() == [1.0, 1.0]
    assert accuracy.top5[1:].tolist() == [1.0, 1.0]


def test_every_image_is_seen_once_an_epoch(three_blocks):
    assert int(fit(three_blocks, epochs=5).optimizer.iterations) == 5 * 8  # 240 images by 32


@pytest.mark.slow
def test_probe_is_reproducible_from_the_seed_of_the_image_order(three_blocks):
    weights = [fit(three_blocks, seed, epochs=2).get_weights()[-2] for seed in (1, 1, 2)]
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-5, atol=1e-6)
    assert np.abs(weights[0] - weights[2]).max() > 1e-6


def test_ties_and_nan_logits_are_not_hits(three_blocks):
    class Constant:
        def __init__(self, value):
            self.value = value

        def __call__(self, features, training):
            return tf.fill([tf.shape(features)[0], 3, 6], self.value)

    for value in (0.0, float("nan")):
        accuracy = probe.evaluate(Constant(value), three_blocks, 32)
        assert accuracy.top1.tolist() == [0.0] * 3
        assert accuracy.top5.tolist() == [0.0] * 3
