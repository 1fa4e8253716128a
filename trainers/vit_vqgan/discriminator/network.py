"""The adversary's networks: pixels in, logits out, above 0 for what looks real."""

from __future__ import annotations

import keras

from trainers.vit_vqgan.discriminator import config
from trainers.vit_vqgan.discriminator.patchgan import PatchGAN
from trainers.vit_vqgan.discriminator.stylegan2 import StyleGAN2


def build(options: config.Discriminator, *, image_size: int) -> keras.Model:
    """The discriminator that `options` describe, with all its weights.

    It maps pixels float32 [B, S, S, 3] in about [0, 1] to logits float32: one an image, [B, 1], from
    StyleGAN2, one a patch, [B, h, w, 1], from PatchGAN.

    Raises:
      ValueError: the network cannot look at images of this size.
    """
    options.check_image_size(image_size)
    if isinstance(options, config.StyleGAN2):
        return StyleGAN2(options, image_size=image_size)
    return PatchGAN(options, image_size=image_size)
