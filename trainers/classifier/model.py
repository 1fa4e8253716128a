"""ResNet for images below 64 pixels (He et al. 2016, section 4.2): the CIFAR form, 6 n + 2 layers."""

from __future__ import annotations

import keras
import tensorflow as tf

from serving.export.metadata import CHANNELS
from trainers.classifier import config

STAGES = 3


class ResidualBlock(keras.layers.Layer):
    """Two 3x3 convolutions with batch norm; the shortcut is the identity, or 1x1 where the shape changes."""

    def __init__(self, filters: int, *, stride: int, project: bool, **kwargs):
        super().__init__(**kwargs)
        self.convolution_1 = _convolution(filters, stride=stride)
        self.norm_1 = keras.layers.BatchNormalization()
        self.convolution_2 = _convolution(filters)
        self.norm_2 = keras.layers.BatchNormalization()
        self.stride = stride
        self.shortcut = _convolution(filters, kernel=1) if project else None

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[B, H, W, C] to [B, H / stride, W / stride, filters]."""
        y = tf.nn.relu(self.norm_1(self.convolution_1(x), training=training))
        y = self.norm_2(self.convolution_2(y), training=training)
        if self.shortcut is None:
            return tf.nn.relu(y + x)
        # Sliced, instead of a convolution with a stride, which is the same: the gradient of such a kernel of
        # 1x1 crashes oneDNN from 64 pixels on with fewer than 16 channels (seen on Intel and AMD).
        return tf.nn.relu(y + self.shortcut(x[:, :: self.stride, :: self.stride]))


class ResNet(keras.Model):
    """Pixels in [0, 1] to the logits of the classes and the features in front of the last layer."""

    def __init__(self, options: config.Model, *, image_size: int, classes: int):
        super().__init__(name="resnet")
        self.stem = _convolution(options.width)
        self.stem_norm = keras.layers.BatchNormalization()
        self.blocks = [
            ResidualBlock(
                options.width * 2**stage,
                stride=2 if stage and not index else 1,
                project=bool(stage and not index),
            )
            for stage in range(STAGES)
            for index in range(options.blocks_per_stage)
        ]
        self.logits = keras.layers.Dense(classes)
        self(tf.zeros([1, image_size, image_size, CHANNELS]))

    def call(self, pixels: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Pixels [B, S, S, 3] to logits float32 [B, C] and mean-pooled features float32 [B, D]."""
        x = tf.nn.relu(self.stem_norm(self.stem(2.0 * pixels - 1.0), training=training))
        for block in self.blocks:
            x = block(x, training=training)
        features = tf.reduce_mean(x, axis=[1, 2])
        return tf.cast(self.logits(features), tf.float32), tf.cast(features, tf.float32)


def _convolution(filters: int, *, stride: int = 1, kernel: int = 3) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(
        filters, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal"
    )
