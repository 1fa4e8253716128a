"""The tokenizer's losses (section 3.3): reconstruction, adversarial loss, R1 and LeCAM.

Reconstruction losses are means over pixels of images in [0, 1]. A discriminator logit d says how real an
image looks: sigmoid(d) is the probability of real. Logits are float32, [B, 1] (one an image) or [B, h, w, 1]
(one a patch); adversarial losses are means over all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

# The logit-laplace density is defined on the open interval (0, 1); pixels are squeezed into [0.1, 0.9].
SQUEEZE = 0.8
MARGIN = 0.1
MAX_PSNR = 100.0


def squeeze(pixels: tf.Tensor) -> tf.Tensor:
    """Pixels in [0, 1] to the support of the logit-laplace density, [0.1, 0.9]."""
    return SQUEEZE * pixels + MARGIN


def to_pixels(mu: tf.Tensor) -> tf.Tensor:
    """The image at location mu (logits): the inverse of `logit(squeeze(.))`.

    It reaches a little beyond [0, 1], so that black and white have a finite mu and a gradient.
    """
    return (tf.sigmoid(mu) - MARGIN) / SQUEEZE


def l2(pixels: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """Mean squared error, scalar."""
    return tf.reduce_mean(tf.square(pixels - reconstruction))


def logit_laplace(pixels: tf.Tensor, mu: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
    """Negative log-likelihood of the logit-laplace density, without its Jacobian, scalar.

    With x the squeezed pixel, logit(x) is Laplace with location mu and scale b, so

        -ln p(x) = |logit(x) - mu| / b + ln b + ln(2 x (1 - x)).

    The last term, the Jacobian, does not depend on the model. The loss leaves it out, and `jacobian` adds it
    where the value is reported.
    """
    x = squeeze(pixels)
    logit = tf.math.log(x) - tf.math.log1p(-x)
    return tf.reduce_mean(tf.abs(logit - mu) * tf.exp(-log_scale) + log_scale)


def jacobian(pixels: tf.Tensor) -> tf.Tensor:
    """The mean of ln(2 x (1 - x)) over squeezed pixels x, scalar.

    `logit_laplace` plus this is the negative log-density that Table 1 reports.
    """
    x = squeeze(pixels)
    return tf.reduce_mean(tf.math.log(2.0 * x * (1.0 - x)))


def psnr(pixels: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """Peak signal-to-noise ratio in dB, the mean over images; the peak is 1.

    Identical images have MAX_PSNR instead of infinity, which would hide all others in a mean.
    """
    decibels = tf.image.psnr(pixels, tf.clip_by_value(reconstruction, 0.0, 1.0), max_val=1.0)
    return tf.reduce_mean(tf.minimum(decibels, MAX_PSNR))


def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The non-saturating loss of the tokenizer (Goodfellow et al. 2014, section 3), scalar, above 0.

    It is the cross-entropy of reconstructions against the answer "real",

        -ln sigmoid(d) = ln(1 + exp(-d)),

    whose gradient, -sigmoid(-d), is strongest for reconstructions that the discriminator recognizes. The
    minimax loss ln(1 - sigmoid(d)) vanishes there.
    """
    return _cross_entropy(fake_logits, real=True)


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """The logistic loss of the discriminator (Goodfellow et al. 2014, equation 1), scalar, above 0.

    It is the cross-entropy of images against "real" plus that of reconstructions against "fake",

        -ln sigmoid(d_real) - ln(1 - sigmoid(d_fake)) = ln(1 + exp(-d_real)) + ln(1 + exp(d_fake)).

    All logits 0, chance level, give 2 ln 2 = 1.386.
    """
    return _cross_entropy(real_logits, real=True) + _cross_entropy(fake_logits, real=False)


def _cross_entropy(logits: tf.Tensor, *, real: bool) -> tf.Tensor:
    labels = tf.ones_like(logits) if real else tf.zeros_like(logits)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits))


def r1_penalty(discriminator: Callable[[tf.Tensor], tf.Tensor], pixels: tf.Tensor) -> tf.Tensor:
    """Mean over images of ||d sum(D) / dx||^2 at x = 2 pixels - 1 (Mescheder et al. 2018), scalar.

    `pixels` float32 [B, S, S, 3] are in [0, 1]. The literature's gamma is for images in [-1, 1], whose
    gradient is half of that in pixels; in pixels the penalty would be four times as strong.

    R1 adds gamma / 2 times this to the discriminator's loss, so that it is flat around real images and its
    gradient vanishes once the reconstructions are among them. Computed on every n-th step only, it is scaled
    by n (lazy regularization, Karras et al. 2020, appendix B).

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

    `update` is called after the step, because a step may consist of replicas and micro-batches, or be
    skipped.
    """

    def __init__(self, decay: float = 0.99):
        self.decay = decay
        self.real_mean = keras.Variable(0.0, dtype="float32", trainable=False, name="lecam_real_mean")
        self.fake_mean = keras.Variable(0.0, dtype="float32", trainable=False, name="lecam_fake_mean")

    @property
    def variables(self) -> list[keras.Variable]:
        """Both means, for a checkpoint."""
        return [self.real_mean, self.fake_mean]

    def update(self, real_mean: tf.Tensor, fake_mean: tf.Tensor, started: tf.Tensor) -> None:
        """Include the mean logits of one step, scalars: m becomes decay m + (1 - decay) mean.

        Logits from before the discriminator has started to train (`started` bool, scalar) are ignored.
        """
        for running, mean in ((self.real_mean, real_mean), (self.fake_mean, fake_mean)):
            running.assign(tf.where(started, self.decay * running + (1.0 - self.decay) * mean, running))


def lecam_penalty(
    real_logits: tf.Tensor, fake_logits: tf.Tensor, real_mean: tf.Tensor, fake_mean: tf.Tensor
) -> tf.Tensor:
    """Squared distance of logits to the other side's running mean, scalar (Tseng et al. 2021),

        E (d_real - fake_mean)^2 + E (d_fake - real_mean)^2.

    Added to the discriminator's loss, it restrains a discriminator that memorizes few images: its gradient
    grows with the gap between the logits of images and of reconstructions.
    """
    return tf.reduce_mean(tf.square(real_logits - fake_mean)) + tf.reduce_mean(
        tf.square(fake_logits - real_mean)
    )
