import numpy as np
import pytest
import tensorflow as tf

from trainers.classifier.config import Model
from trainers.classifier.model import ResNet
from trainers.classifier.trainer import _rotate


@pytest.mark.parametrize("blocks", [1, 3])
def test_depth_is_6_n_plus_2(blocks):
    resnet = ResNet(Model(blocks_per_stage=blocks, width=4), image_size=16, classes=5)
    kernels = [v for v in resnet.trainable_variables if v.name == "kernel"]
    projections = [v for v in kernels if v.shape[:2] == (1, 1)]
    assert len(kernels) - len(projections) == 6 * blocks + 2
    assert len(projections) == 2


def test_logits_are_computed_from_the_features():
    resnet = ResNet(Model(blocks_per_stage=1, width=4), image_size=16, classes=5)
    logits, features = resnet(tf.random.stateless_uniform([2, 16, 16, 3], seed=[0, 0]))
    assert features.shape == (2, 16)
    np.testing.assert_allclose(resnet.logits(features), logits, rtol=1e-6)


def test_parameter_count_matches_cifar_resnet_20():
    # ResNet-20 has 0.27 million parameters (He et al. 2016, table 6).
    resnet = ResNet(Model(blocks_per_stage=3, width=16), image_size=32, classes=10)
    parameters = sum(int(np.prod(variable.shape)) for variable in resnet.trainable_variables)
    assert parameters == pytest.approx(272_000, rel=0.02)


def test_rotated_images_are_labelled_with_their_quarter_turns():
    pixels = tf.random.stateless_uniform([5, 4, 4, 3], seed=[0, 0])
    turned, quarters = _rotate({"pixels": pixels, "label": tf.fill([5], -1)})
    assert quarters.numpy().tolist() == [0, 1, 2, 3, 0]
    for index in range(5):
        np.testing.assert_array_equal(turned[index], np.rot90(pixels[index], index % 4))
