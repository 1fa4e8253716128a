"""The tokenizer's reconstruction losses (section 3.3), all means over pixels of images in [0, 1]."""

from __future__ import annotations

import tensorflow as tf

# The logit-laplace density lives on the open interval (0, 1); pixels are squeezed into [0.1, 0.9].
SQUEEZE = 0.8
MARGIN = 0.1
MAX_PSNR = 100.0


def squeeze(pixels: tf.Tensor) -> tf.Tensor:
    """Pixels in [0, 1] to the support of the logit-laplace density, [0.1, 0.9]."""
    return SQUEEZE * pixels + MARGIN


def to_pixels(mu: tf.Tensor) -> tf.Tensor:
    """The image that the location mu (logits) stands for: the inverse of `logit(squeeze(.))`.

    It reaches a little beyond [0, 1], so that black and white lie at finite mu and keep a gradient.
    """
    return (tf.sigmoid(mu) - MARGIN) / SQUEEZE


def l2(pixels: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """Mean squared error, scalar."""
    return tf.reduce_mean(tf.square(pixels - reconstruction))


def logit_laplace(pixels: tf.Tensor, mu: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
    """Negative log-likelihood of the logit-laplace density, without its Jacobian, scalar.

    With x the squeezed pixel, logit(x) is Laplace with location mu and scale b, so that

        -ln p(x) = |logit(x) - mu| / b + ln b + ln(2 x (1 - x)),

    whose last term, the Jacobian, does not depend on the model. It is left out here and put back where
    the value is reported (`jacobian`).
    """
    x = squeeze(pixels)
    logit = tf.math.log(x) - tf.math.log1p(-x)
    return tf.reduce_mean(tf.abs(logit - mu) * tf.exp(-log_scale) + log_scale)


def jacobian(pixels: tf.Tensor) -> tf.Tensor:
    """The mean of ln(2 x (1 - x)) over squeezed pixels x, scalar.

    With it, `logit_laplace` is the negative log-density that Table 1 reports.
    """
    x = squeeze(pixels)
    return tf.reduce_mean(tf.math.log(2.0 * x * (1.0 - x)))


def psnr(pixels: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """Peak signal-to-noise ratio in dB, of each image, then the mean; the peak is 1.

    Two images that are the same have MAX_PSNR, and not an infinity that drowns all others in a mean.
    """
    decibels = tf.image.psnr(pixels, tf.clip_by_value(reconstruction, 0.0, 1.0), max_val=1.0)
    return tf.reduce_mean(tf.minimum(decibels, MAX_PSNR))
