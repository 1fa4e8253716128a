"""Configuration of a convolutional tower (VQGAN, Esser et al. 2021, arXiv:2012.09841, Table 7)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from trainers.training.config import Section


class Convolutional(Section):
    """Size of an encoder or decoder: `channels` times a multiplier for each resolution, the finest first.

    Each resolution has half the side of the one before; Table 1's two baselines have 128 and 256
    channels. The decoder has one residual block a resolution more than `residual_blocks`.
    """

    channels: PositiveInt = 128
    multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 2, 4)
    residual_blocks: PositiveInt = 2

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, the finest first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def downsampling(self) -> int:
        """The side of the square of pixels that one token stands for."""
        return 2 ** (len(self.multipliers) - 1)
