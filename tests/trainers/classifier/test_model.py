import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from trainers.classifier.config import Model
from trainers.classifier.model import ResidualBlock, ResNet
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


def test_shortcut_is_a_convolution_with_a_stride():
    block = ResidualBlock(8, stride=2, project=True)
    x = tf.random.stateless_normal([2, 6, 6, 4], seed=[0, 0])
    block(x)
    expected = tf.nn.conv2d(x, block.shortcut.kernel, 2, "SAME")
    np.testing.assert_allclose(block.shortcut(x[:, ::2, ::2]), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_few_channels_of_large_images_do_not_crash_the_interpreter():
    # In a process of its own, which dies of the fault (exit code 139) and not of an exception.
    program = """
import tensorflow as tf
from trainers.classifier.config import Model
from trainers.classifier.model import ResNet
for width, size in ((4, 64), (12, 64), (4, 128)):
    model = ResNet(Model(blocks_per_stage=1, width=width), image_size=size, classes=3)
    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(tf.zeros([2, size, size, 3]), training=True)[0])
        return tape.gradient(loss, model.trainable_variables)
    gradients()
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-1000:]
