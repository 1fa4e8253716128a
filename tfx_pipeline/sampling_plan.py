"""The cost of drawing the set of samples that the GenerationEvaluator scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.console import Console

from tfx_pipeline.config import Config
from tfx_pipeline.plan import Devices, bytes_text, flops_text, plain_table, seconds_text, vocabulary
from trainers.accounting import FLOAT32_BYTES, total
from trainers.vim import accounting as vim

# Bytes of a number that is read, by precision.
_BYTES = {"float32": FLOAT32_BYTES, "bfloat16": 2}


@dataclass(frozen=True)
class SamplingPlan:
    """Drawing a number of images, one place of each row in a pass; Jacobi iteration may make fewer passes.

    Attributes:
      images: drawn images: the samples, and with rejection those that are not kept.
      rows: of one image in the products: 2 with guidance.
      tokens: N, the passes of a group.
      slots: rows of a pass.
      flops: of one row and image, all its places.
      weights: bytes that a pass reads, whatever its rows are.
      cache: bytes of a row's keys and values; a pass reads half of them on average.
    """

    images: int
    rows: int
    tokens: int
    slots: int
    flops: int
    weights: int
    cache: int

    @property
    def passes(self) -> int:
        """How many passes all groups make on one device."""
        return self.tokens * math.ceil(self.images * self.rows / self.slots)

    @property
    def pass_bytes(self) -> int:
        """Bytes that a pass reads on average."""
        return self.weights + self.slots * self.cache // 2

    def seconds(self, devices: Devices) -> float:
        """The time on devices that share the groups: that of FLOPs or of reading, whichever is longer."""
        products = self.slots * self.flops / self.tokens / (devices.tflops * 1e12 * devices.utilization)
        reading = self.pass_bytes / devices.bandwidth
        groups = math.ceil(self.passes / self.tokens / devices.count)
        return groups * self.tokens * max(products, reading)


def drawing(config: Config) -> SamplingPlan:
    """The plan of the samples of a configuration."""
    model, sampler, generation = config.stage2.model, config.stage2.sampler, config.evaluation.generation
    tokens, codes = vocabulary(config)
    parts = vim.parts(model, tokens=tokens, codebook_size=codes, classes=0)
    used = [cost for name, cost in parts.items() if name != "embeddings"]
    rows = 1 if generation.sampling.guidance_scale == 1.0 else 2
    images = math.ceil(generation.samples / generation.acceptance)
    size = model.transformer
    return SamplingPlan(
        images=images,
        rows=rows,
        tokens=tokens,
        slots=min(sampler.max_slots, rows * images),
        flops=total(used).flops,
        weights=_BYTES[sampler.weights] * parts["blocks"].parameters
        + FLOAT32_BYTES * parts["logits"].parameters,
        cache=_BYTES[sampler.cache] * 2 * size.blocks * size.width * tokens,
    )


def show(plan: SamplingPlan, devices: Devices, console: Console) -> None:
    """Print a plan."""
    table = plain_table("drawing samples", f"{plan.images:,} images", "per image")
    one = plan.rows * plan.flops
    table.add_row("products", flops_text(plan.images * one), flops_text(one))
    table.add_row("keys and values", bytes_text(plan.slots * plan.cache), bytes_text(plan.rows * plan.cache))
    table.add_row(f"passes of {plan.slots} rows", f"{plan.passes:,}", f"{plan.tokens:,}")
    table.add_row("read in a pass", bytes_text(plan.pass_bytes))
    rate = f"{devices.bandwidth / 1e9:,.0f} GB/s"
    table.add_row(f"time, reading at {rate}", seconds_text(plan.seconds(devices)), style="bold")
    console.print(table)
    console.print()
