"""The cost of the linear probe: the features of every image once, and passes over their cache."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.console import Console

from tfx_pipeline.config import Config, ImportedTokenizer
from tfx_pipeline.plan import Devices, bytes_text, flops_text, plain_table, seconds_text, vocabulary
from trainers.accounting import total
from trainers.vim import accounting as vim
from trainers.vit_vqgan import accounting as vit_vqgan

FLOAT16_BYTES = 2


@dataclass(frozen=True)
class ProbePlan:
    """The linear probe of every block on a number of training images.

    Attributes:
      images: training images with labels.
      flops: to compute the features of one image, its tokens included unless the tokenizer is imported.
      cached: bytes of one image's features of all blocks.
      steps: of the probe.
      epochs: passes over the cache.
    """

    images: int
    flops: int
    cached: int
    steps: int
    epochs: int


def linear_probe(config: Config, *, images: int) -> ProbePlan:
    """The plan of the linear probe of a configuration."""
    model, probe = config.stage2.model, config.evaluation.linear_probe
    tokens, codes = vocabulary(config)
    parts = vim.parts(model, tokens=tokens, codebook_size=codes, classes=0)
    flops = total(cost for name, cost in parts.items() if name != "logits").flops
    if not isinstance(config.stage1, ImportedTokenizer):
        flops += vit_vqgan.encode(config.stage1.model, image_size=config.data.image_size).flops
    size = model.transformer
    return ProbePlan(
        images,
        flops,
        size.blocks * size.width * FLOAT16_BYTES,
        probe.epochs * math.ceil(images / probe.batch_size),
        probe.epochs,
    )


def show(plan: ProbePlan, devices: Devices, console: Console) -> None:
    """Print a plan."""
    table = plain_table("linear probe, if images have labels", f"{plan.images:,} images", "per image")
    table.add_row("features, once", flops_text(plan.images * plan.flops), flops_text(plan.flops))
    table.add_row("time of the features", seconds_text(plan.images * plan.flops / devices.flops_per_second))
    table.add_row("cache on disk", bytes_text(plan.images * plan.cached), bytes_text(plan.cached))
    table.add_row(f"steps of {plan.epochs} epochs", f"{plan.steps:,}")
    table.add_row("read from the cache", bytes_text(plan.epochs * plan.images * plan.cached))
    console.print(table)
    console.print()
