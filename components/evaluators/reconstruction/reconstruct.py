"""Held-out images, their reconstructions, and what is measured on each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf

from components.evaluators import examples, features
from components.evaluators.features import Features
from components.evaluators.lpips import Lpips
from components.evaluators.networks import Networks, hits
from components.metrics import registry
from components.metrics.codebook import PlacedTokens
from components.saved_model import SavedModel

PER_IMAGE = [metric for metric in registry.RECONSTRUCTION if metric.per_image]
LPIPS = "lpips"


class Reconstructed(NamedTuple):
    """B images, their reconstructions, and what was measured on them."""

    places: np.ndarray  # int64 [B], in the split
    keys: np.ndarray  # object [B], bytes
    labels: np.ndarray  # int64 [B]
    originals: np.ndarray  # uint8 [B, S, S, 3]
    reconstructions: np.ndarray  # uint8 [B, S, S, 3]
    tokens: np.ndarray  # int32 [B, N]
    per_image: np.ndarray  # float64 [B, M], one column a metric of `PER_IMAGE`
    original_features: Features
    reconstruction_features: Features
    hits: tuple[int, int]  # originals that are recognized, and originals with a label

    @property
    def placed(self) -> PlacedTokens:
        """Tokens, with their images' places."""
        return PlacedTokens(self.places, self.tokens)


class Reconstruct(beam.DoFn):
    """`ImageBatch` -> `Reconstructed`."""

    def __init__(self, tokenizer: SavedModel, networks: Networks, image_size: int, lpips: str):
        self._handle = tokenizer
        self._networks = networks
        self._image_size = image_size
        self._lpips = Lpips(lpips) if lpips else None

    def setup(self) -> None:
        """Load tokenizer and networks."""
        self._perceptual = self._lpips.load() if self._lpips else None
        self._tokenizer, self._measure = self._handle.load(), self._networks.load()
        # Of the reconstructions only features are wanted.
        self._extract = self._networks.features.load()
        outputs = self._tokenizer.signatures["decode_pixels"].structured_outputs
        if "mu" not in outputs:
            raise ValueError(
                f"the tokenizer's signature decode_pixels must have the output mu, got {sorted(outputs)}; it "
                "comes from an earlier version: run with another --output"
            )

    def process(self, batch: examples.ImageBatch) -> Iterator[Reconstructed]:
        """Encode, decode and measure one batch."""
        original = features.decode(tf.constant(batch.image_bytes), self._image_size)
        tokens = self._tokenizer.signatures["encode_pixels"](pixels=original)["tokens"]
        decoded = self._tokenizer.signatures["decode_pixels"](tokens=tokens)
        pair = original.numpy(), decoded["pixels"].numpy()
        originals, reconstructions = (features.to_8_bits(pixels) for pixels in pair)
        unknown = np.full(len(originals), np.nan)
        images = registry.ReconstructedImages(
            *pair,
            mu=decoded["mu"].numpy(),
            log_scale=decoded["log_scale"].numpy(),
            lpips=self._perceptual(originals, reconstructions) if self._perceptual else unknown,
        )
        measured = self._measure(originals)
        yield Reconstructed(
            batch.places,
            batch.keys,
            batch.labels,
            originals,
            reconstructions,
            tokens.numpy(),
            np.stack([metric.per_image(images) for metric in PER_IMAGE if metric.per_image], axis=1),
            measured.features,
            self._extract(reconstructions),
            hits(measured.recognition, batch.labels),
        )
