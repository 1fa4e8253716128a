"""Distances between images and their reconstructions.

Images are float [B, H, W, C] in [0, 1]; every result is float64 [B], a mean over the image.
"""

from __future__ import annotations

import numpy as np
from scipy import special

# A perfect reconstruction would have infinite PSNR, which would hide all others in a mean.
MAX_PSNR = 100.0


def l1(originals: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Mean absolute difference, [B]."""
    return _mean(np.abs(_difference(originals, reconstructions)))


def l2(originals: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Mean squared difference, [B] (Table 1's unit is 1e-3)."""
    return _mean(np.square(_difference(originals, reconstructions)))


def psnr(originals: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of images of 8 bits in dB, [B], at most 100."""
    floor = 10.0 ** (-MAX_PSNR / 10.0)
    return -10.0 * np.log10(np.maximum(l2(_in_8_bits(originals), _in_8_bits(reconstructions)), floor))


def ssim(originals: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Structural similarity of images of 8 bits (Wang et al. 2004), [B]: at most 1, a mean over the channels.

    A Gaussian window of 11 pixels and deviation 1.5, or of the whole image where it is smaller.
    """
    # Who declares metrics must not wait for it.
    import tensorflow as tf

    window = min(11, *originals.shape[1:3])
    pair = (tf.constant(_in_8_bits(images), tf.float32) for images in (originals, reconstructions))
    return tf.image.ssim(*pair, max_val=1.0, filter_size=window).numpy().astype(np.float64)


def logit_laplace(originals: np.ndarray, mu: np.ndarray, log_scale: np.ndarray) -> np.ndarray:
    """Negative log-density of the originals under the decoder's logit-Laplace, nats a value, [B].

    Ramesh et al. (2021), appendix A.3: x' = 0.8 x + 0.1 is logit-Laplace with location mu and scale b, so -ln
    p(x') = |logit(x') - mu| / b + ln b + ln(2 x' (1 - x')). The last term, the Jacobian, is part of the value
    that Table 1 reports and not of the loss. mu may lie beyond the logits of black and white, where the image
    is clipped; measured from the clipped image, the distance would be too small.

    Args:
      originals: x.
      mu: the decoder's location, shaped as the images.
      log_scale: ln b, likewise; 0 where the decoder has a constant scale.
    """
    x = 0.8 * np.asarray(originals, np.float64) + 0.1
    mu, log_scale = np.asarray(mu, np.float64), np.asarray(log_scale, np.float64)
    distance = np.abs(special.logit(x) - mu)
    return _mean(distance * np.exp(-log_scale) + log_scale + np.log(2.0 * x * (1.0 - x)))


def _difference(originals: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    return np.asarray(originals, np.float64) - np.asarray(reconstructions, np.float64)


def _in_8_bits(images: np.ndarray) -> np.ndarray:
    return np.rint(255.0 * np.asarray(images, np.float64)) / 255.0


def _mean(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).mean(axis=1)
