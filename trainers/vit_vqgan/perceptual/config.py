"""Configuration of the perceptual loss (section 3.3)."""

from __future__ import annotations

import pydantic

from trainers.training.config import Section

SAVEDMODEL = "savedmodel:"
# Four poolings lie before relu5_3.
VGG16_SMALLEST_SIDE = 16


class Perceptual(Section):
    """Which network compares: `vgg16`, or `savedmodel:PATH` with a signature `distance`.

    `weights` is a file of VGG16's weights without its top, `.h5` or `.weights.h5` as keras.applications
    keeps them; without it keras.applications looks into its cache, then downloads them.
    """

    network: str = "vgg16"
    weights: str | None = None

    @property
    def savedmodel(self) -> str | None:
        """The SavedModel's folder, or None where the network is VGG16."""
        return self.network.removeprefix(SAVEDMODEL) if self.network.startswith(SAVEDMODEL) else None

    @property
    def smallest_side(self) -> int:
        """Pixels that an image must have a side; of a SavedModel nothing is known."""
        return 1 if self.savedmodel else VGG16_SMALLEST_SIDE

    @pydantic.model_validator(mode="after")
    def _is_a_known_network(self) -> Perceptual:
        if self.network != "vgg16" and not self.savedmodel:
            raise ValueError(f"network {self.network!r} is neither vgg16 nor {SAVEDMODEL}PATH")
        if self.savedmodel and self.weights:
            raise ValueError(f"weights {self.weights!r} are for vgg16; {self.network} holds its own")
        return self
