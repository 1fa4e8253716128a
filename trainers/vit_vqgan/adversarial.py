"""The game between tokenizer and discriminator: both sides' losses and what keeps the second in check.

A logit d = D(x) says how real a picture looks: sigmoid(d) is the probability of real. Logits are float32,
[B, 1] (one an image) or [B, h, w, 1] (one a patch); losses are means over all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from trainers.vit_vqgan import published_losses


def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The non-saturating loss of the tokenizer (Goodfellow et al. 2014, section 3), scalar, above 0.

    It is the cross-entropy of reconstructions against the answer "real",

        -ln sigmoid(d) = ln(1 + exp(-d)),

    whose gradient, -sigmoid(-d), is strongest for what the discriminator sees through. The game's own
    ln(1 - sigmoid(d)) would vanish just there.
    """
    return published_losses.modified_generator_loss(fake_logits, loss_collection=None)


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """The logistic loss of the discriminator (Goodfellow et al. 2014, equation 1), scalar, above 0.

    It is the cross-entropy of images against "real" and of reconstructions against "fake", a mean over
    each and then their sum,

        -ln sigmoid(d_real) - ln(1 - sigmoid(d_fake)) = ln(1 + exp(-d_real)) + ln(1 + exp(d_fake)).

    All logits 0 give 2 ln 2 = 1.386.
    """
    return published_losses.modified_discriminator_loss(
        real_logits, fake_logits, label_smoothing=0.0, loss_collection=None
    )


def r1_penalty(discriminator: Callable[[tf.Tensor], tf.Tensor], pixels: tf.Tensor) -> tf.Tensor:
    """Mean over images of ||d sum(D) / dx||^2 at x = 2 pixels - 1 (Mescheder et al. 2018).

    `pixels` float32 [B, S, S, 3] are in [0, 1]. The literature's gamma is for images in [-1, 1], and so is
    this gradient: half that in pixels. Taken in pixels, the penalty would be four times as strong.

    R1 adds gamma / 2 times this to the discriminator's loss, so that it lies flat around real images, and
    leaves off once the reconstructions are among them. Taken on every n-th step alone, it is weighted by n
    there (lazy regularization, Karras et al. 2020, appendix B).

    The norm is a sum over pixels and channels. An image's logit depends on this image alone (but for
    minibatch statistics), so the gradient of the sum over the batch holds each image's own.
    """
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        total = tf.reduce_sum(discriminator(pixels))
    gradient = 0.5 * tape.gradient(total, pixels)
    return tf.reduce_mean(tf.reduce_sum(tf.square(gradient), axis=[1, 2, 3]))


class LeCAM:
    """Running means of the logits of images and reconstructions, scalars (Tseng et al. 2021).

    Updating them is a call of its own, for a step may be put together from replicas and parts, or be
    skipped.
    """

    def __init__(self, decay: float = 0.99):
        self.decay = decay
        self.real_mean = keras.Variable(0.0, dtype="float32", trainable=False, name="lecam_real_mean")
        self.fake_mean = keras.Variable(0.0, dtype="float32", trainable=False, name="lecam_fake_mean")

    @property
    def variables(self) -> list[keras.Variable]:
        """What a checkpoint keeps."""
        return [self.real_mean, self.fake_mean]

    def update(self, real_mean: tf.Tensor, fake_mean: tf.Tensor, taught: tf.Tensor) -> None:
        """Takes in the mean logits of one step, scalars: m <- decay m + (1 - decay) mean.

        Those of a discriminator that has not begun to learn (`taught` bool, scalar) are not counted.
        """
        for running, mean in ((self.real_mean, real_mean), (self.fake_mean, fake_mean)):
            running.assign(tf.where(taught, self.decay * running + (1.0 - self.decay) * mean, running))


def lecam_penalty(
    real_logits: tf.Tensor, fake_logits: tf.Tensor, real_mean: tf.Tensor, fake_mean: tf.Tensor
) -> tf.Tensor:
    """How far the logits lie from the other side's running mean, scalar (Tseng et al. 2021),

        E (d_real - fake_mean)^2 + E (d_fake - real_mean)^2.

    Added to the discriminator's loss, it holds back a discriminator that tells few images apart by heart.
    For fixed means it is a square around each of them, whose gradient, 2 (d - mean), grows with the gap
    between the two sides.
    """
    return tf.reduce_mean(tf.square(real_logits - fake_mean)) + tf.reduce_mean(
        tf.square(fake_logits - real_mean)
    )
