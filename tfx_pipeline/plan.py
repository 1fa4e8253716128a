"""The cost of training a configuration: parameters, FLOPs, memory, data and time.

All of it follows from sizes: no model is built, no data is read, and TensorFlow is imported only to read the
sizes of an imported tokenizer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from tfx_pipeline.config import Config, ConfigError, ImportedTokenizer
from trainers.accounting import FLOAT32_BYTES, Cost, activation_bytes, table_2, total
from trainers.classifier import accounting as resnet
from trainers.training.config import OptimizerName, Train, Transformer
from trainers.vim import accounting as vim
from trainers.vit_vqgan import accounting as vit_vqgan

ADAM_SLOTS = 2
# What the later stages of ZeRO shard too, as keys of `CostPlan.memory`.
LATER_STAGES = {2: ("gradients",), 3: ("gradients", "weights")}
# About that of a photograph as PNG; ImageNet's own JPEGs, of all sizes, have 110 kB on average.
BYTES_PER_PIXEL = 2
# A token Example holds key, label and names of features beside its tokens.
TOKEN_EXAMPLE_BYTES = 100


# The product that tells a CPU's rate, and how often it is tried: the best is free of what else runs.
PRODUCT_SIDE, PRODUCTS = 2048, 6
# 268 MB: more than the caches of a processor hold.
READ_SIDE = 8192
# Training steps reach 0.3 (digits) to 0.75 (ViT-VQGAN Base at 256 pixels) of it (docs/performance.md).
CPU_UTILIZATION = 0.5


@dataclass(frozen=True)
class Devices:
    """The devices: number, peak rate, the share of it that is reached, memory, and bytes read a second."""

    count: int
    tflops: float
    utilization: float
    memory: float | None = None
    bandwidth: float = 1.2e12

    @classmethod
    def this_cpu(cls) -> Devices:
        """This machine: the rates of its products and of reading, measured for a second, and its memory."""
        tflops = max(_product_tflops() for _ in range(PRODUCTS))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(1, tflops, CPU_UTILIZATION, float(memory), _bytes_read_per_second())

    @property
    def flops_per_second(self) -> float:
        """FLOPs a second of all devices together."""
        return self.count * self.tflops * 1e12 * self.utilization


@dataclass(frozen=True)
class Part:
    """A network, or a part of one.

    Attributes:
      cost: of one image's forward pass.
      optimizer: None for a frozen network, which has neither gradients nor slots.
      table_2: parameters by Table 2's accounting, if it has one.
      passes: forward passes a step whose activations are kept at the same time.
    """

    cost: Cost
    optimizer: OptimizerName | None
    table_2: int | None = None
    passes: int = 1

    @property
    def slots(self) -> int:
        """Bytes of the optimizer's slots."""
        if self.optimizer == "adafactor":
            return self.cost.adafactor
        return ADAM_SLOTS * FLOAT32_BYTES * self.cost.parameters if self.optimizer else 0


@dataclass(frozen=True)
class CostPlan:
    """The training of one stage.

    Attributes:
      parts: networks and their parts, by name.
      flops: FLOPs of a step for each image, by purpose.
      averaged: of those FLOPs that only some steps have, one step in how many.
      example: what is read for each image.
      example_bytes: its bytes.
      ema_parts: parts with an EMA of their weights.
    """

    title: str
    train: Train
    devices: Devices
    parts: Mapping[str, Part]
    flops: Mapping[str, int]
    averaged: Mapping[str, int]
    example: str
    example_bytes: int
    ema_parts: frozenset[str]

    @property
    def step_flops(self) -> float:
        """FLOPs of a step over the whole batch; FLOPs of some steps only are averaged over all."""
        one = sum(flops / self.averaged.get(name, 1) for name, flops in self.flops.items())
        return one * self.train.batch_size

    @property
    def step_seconds(self) -> float:
        """Seconds a step at the devices' rate."""
        return self.step_flops / self.devices.flops_per_second

    @property
    def memory(self) -> dict[str, int]:
        """Bytes on each device, which holds all weights and its share of the batch.

        Weights, gradients and Adam's two slots take 4 bytes a parameter each, Adafactor's slots about 1 in
        all. Gradients exist twice with `gradient_accumulation_steps`, and an EMA takes 4 more bytes. With
        `zero_stage` 1 each device has its share of Adam's slots, of the weights that Adam updates, and of the
        EMA. Activations are `trainers.accounting`'s estimate for the images of one micro-batch; R1's,
        workspaces and the input pipeline are not included.
        """
        return self._memory(self.train.zero_stage)

    def _memory(self, zero_stage: int) -> dict[str, int]:
        learned = sum(part.cost.parameters for part in self.parts.values() if part.optimizer)
        average = FLOAT32_BYTES * sum(self.parts[name].cost.parameters for name in self.ema_parts)
        images = self.train.batch_size // self.devices.count // self.train.gradient_accumulation_steps
        low_precision = self.train.precision == "bfloat16"
        activations = sum(
            part.passes * activation_bytes(part.cost, low_precision=low_precision)
            for part in self.parts.values()
        )
        weights = sum(part.cost.parameters for part in self.parts.values())
        copies = 1 if self.train.gradient_accumulation_steps == 1 else 2
        slots = {f"optimizer, {name}": self._slots(name) for name in get_args(OptimizerName)}
        if zero_stage == 1 and self.devices.count > 1:
            # Beside the two slots, the weights that they update.
            own = slots["optimizer, adam"] * (ADAM_SLOTS + 1) // ADAM_SLOTS
            slots["optimizer, adam"] = -(-own // self.devices.count)
            average = -(-average // self.devices.count)
        return {
            "weights": FLOAT32_BYTES * weights,
            "gradients": FLOAT32_BYTES * copies * learned,
            **slots,
            "EMA of weights": average,
            "activations": images * activations,
        }

    def _slots(self, optimizer: OptimizerName) -> int:
        return sum(part.slots for part in self.parts.values() if part.optimizer == optimizer)

    @property
    def verdict(self) -> str:
        """Whether the training fits into a device's memory, and if not, what would make it fit.

        Stage 2 of ZeRO shards gradients too, and stage 3 weights (Rajbhandari et al. 2019); the trainers have
        neither.
        """
        size = self.devices.memory
        assert size is not None
        if sum(self.memory.values()) <= size:
            return f"Fits in {bytes_text(size)}."
        sharded = self._memory(1)
        if sum(sharded.values()) <= size:
            return f"Does not fit in {bytes_text(size)}: needs train.zero_stage 1."
        for stage, keys in LATER_STAGES.items():
            shared = sum(sharded[key] for key in keys)
            if sum(sharded.values()) - shared + shared / self.devices.count <= size:
                return (
                    f"Does not fit in {bytes_text(size)}: needs stage {stage} of ZeRO, which is not offered."
                )
        activations = bytes_text(sharded["activations"])
        return f"Does not fit in {bytes_text(size)}, however sharded: activations take {activations}."


def stage_1(config: Config, devices: Devices, *, image_bytes: int | None = None) -> CostPlan:
    """The plan of the tokenizer's training, for encoded images of `image_bytes` on average.

    By default images are assumed to be stored at `data.image_size`, with 2 bytes for each pixel; larger ones
    are stored, and read, in their own size.

    Raises:
      ConfigError: the batch cannot be split evenly among the devices, or the tokenizer is imported.
    """
    stage, size = config.trained_stage1, config.data.image_size
    _check_batch("stage1", stage.train, devices)
    costs = vit_vqgan.parts(stage.model, image_size=size, memory=stage.train.memory)
    towers = {"encoder": stage.model.encoder, "decoder": stage.model.decoder}
    own = stage.train.optimizer
    parts = {name: Part(cost, own.name, table_2=_table_2(towers.get(name))) for name, cost in costs.items()}
    critics = vit_vqgan.critics(stage, image_size=size)
    if "discriminator" in critics:
        # On image and reconstruction.
        optimizer = (stage.adversary.optimizer or own).name
        parts["discriminator"] = Part(critics["discriminator"], optimizer, passes=2)
    if "perceptual" in critics:
        parts["perceptual (frozen)"] = Part(critics["perceptual"], None)
    unknown = stage.perceptual.savedmodel if stage.loss.perceptual else None
    example, example_bytes = _images(size, image_bytes)
    return CostPlan(
        title="Stage 1, the tokenizer" + (f" (without {stage.perceptual.network})" if unknown else ""),
        train=stage.train,
        devices=devices,
        parts=parts,
        flops=vit_vqgan.step_flops(stage, image_size=size),
        averaged={"r1": stage.adversary.r1_every},
        example=example,
        example_bytes=example_bytes,
        ema_parts=frozenset(costs if stage.train.ema_decay else ()),
    )


def classifier(config: Config, devices: Devices, *, image_bytes: int | None = None) -> CostPlan:
    """The plan of the classifier's training, without its last layer, whose size the data decide.

    Args:
      config: the run's configuration.
      devices: what it trains on.
      image_bytes: as for `stage_1`.

    Raises:
      ConfigError: the batch cannot be split evenly among the devices, or the classifier is pretrained.
    """
    own, size = config.trained_classifier, config.data.image_size
    _check_batch("classifier", own.train, devices)
    costs = resnet.parts(own.model, image_size=size, classes=0)
    example, example_bytes = _images(size, image_bytes)
    return CostPlan(
        title="The classifier, for evaluation",
        train=own.train,
        devices=devices,
        parts={name: Part(cost, own.train.optimizer.name) for name, cost in costs.items()},
        flops=resnet.step_flops(own.model, image_size=size),
        averaged={},
        example=example,
        example_bytes=example_bytes,
        ema_parts=frozenset(costs if own.train.ema_decay else ()),
    )


def stage_2(config: Config, devices: Devices, *, image_bytes: int | None = None) -> CostPlan:
    """The plan of the image model's training, without the class embedding, whose size the data decide.

    With tokens on the fly, images are read (`image_bytes` as for `stage_1`), and every device holds the
    frozen tokenizer. The size of an imported one is unknown.

    Raises:
      ConfigError: the batch cannot be split evenly among the devices, or an imported tokenizer is missing.
    """
    stage, size = config.stage2, config.data.image_size
    _check_batch("stage2", stage.train, devices)
    tokens, codes = vocabulary(config)
    memory = stage.train.memory
    costs = vim.parts(stage.model, tokens=tokens, codebook_size=codes, classes=0, memory=memory)
    towers = {"blocks": stage.model.transformer}
    optimizer = stage.train.optimizer.name
    parts = {name: Part(cost, optimizer, table_2=_table_2(towers.get(name))) for name, cost in costs.items()}
    flops = vim.step_flops(stage.model, tokens=tokens, codebook_size=codes, memory=memory)
    unknown = stage.tokens == "on_the_fly" and isinstance(config.stage1, ImportedTokenizer)
    if stage.tokens == "on_the_fly":
        if not unknown:
            model = config.trained_stage1.model
            # No gradient flows through it, so nothing is kept for the backward pass.
            tokenizer = vit_vqgan.reconstruct(model, image_size=size)._replace(activations=0, float32=0)
            parts["tokenizer (frozen)"] = Part(tokenizer, None)
            flops["encode"] = vit_vqgan.encode(model, image_size=size).flops
        example, example_bytes = _images(size, image_bytes)
    else:
        # A protocol buffer's integer takes a byte for every 7 bits.
        token_bytes = max(1, -(-(codes - 1).bit_length() // 7))
        example, example_bytes = "tokens", tokens * token_bytes + TOKEN_EXAMPLE_BYTES
    return CostPlan(
        title="Stage 2, the image model" + (" (without the imported tokenizer)" if unknown else ""),
        train=stage.train,
        devices=devices,
        parts=parts,
        flops=flops,
        averaged={},
        example=example,
        example_bytes=example_bytes,
        ema_parts=frozenset(costs if stage.train.ema_decay else ()),
    )


def _product_tflops() -> float:
    """TFLOP/s of one float32 product on all cores, by NumPy's BLAS: TensorFlow takes seconds to import."""
    one = np.ones([PRODUCT_SIDE, PRODUCT_SIDE], np.float32)
    started = time.perf_counter()
    one @ one
    return 2 * PRODUCT_SIDE**3 / (time.perf_counter() - started) / 1e12


def _bytes_read_per_second() -> float:
    """The rate of a product of a matrix with a vector, on all cores: it waits for memory alone."""
    matrix, vector = np.ones([READ_SIDE, READ_SIDE], np.float32), np.ones([READ_SIDE], np.float32)
    seconds = []
    for _ in range(PRODUCTS):
        started = time.perf_counter()
        matrix @ vector
        seconds.append(time.perf_counter() - started)
    return float(matrix.nbytes / min(seconds))


def vocabulary(config: Config) -> tuple[int, int]:
    """Tokens of an image, and codes."""
    if isinstance(config.stage1, ImportedTokenizer):
        from components.tokenizer_importer import saved_tokenizer

        try:
            metadata = saved_tokenizer.read(config.stage1.savedmodel, image_size=config.data.image_size)
        except saved_tokenizer.TokenizerError as error:
            raise ConfigError(str(error)) from None
        return metadata.tokens, metadata.codebook_size
    model = config.stage1.model
    return (config.data.image_size // model.patch_size) ** 2, model.codebook.size


def _images(size: int, image_bytes: int | None) -> tuple[str, int]:
    """A description of the images that are read, and the bytes of one."""
    if image_bytes:
        return "encoded images", image_bytes
    return f"images of {size} x {size}, {BYTES_PER_PIXEL} bytes a pixel", BYTES_PER_PIXEL * size**2


def _table_2(size: object) -> int | None:
    return table_2(size) if isinstance(size, Transformer) else None


def _check_batch(stage: str, train: Train, devices: Devices) -> None:
    shares = devices.count * train.gradient_accumulation_steps
    if train.batch_size % shares:
        raise ConfigError(
            f"{stage}.train.batch_size must be a multiple of {shares} ({devices.count} devices, "
            f"{train.gradient_accumulation_steps} gradient_accumulation_steps each), got {train.batch_size}"
        )


def show(plan: CostPlan, console: Console) -> None:
    """Print a plan."""
    console.print(plan.title, style="bold")
    for table in (_parts_table(plan), _step_table(plan), _memory_table(plan)):
        console.print(table)
        console.print()
    if plan.devices.memory:
        console.print(plan.verdict, style="bold")
        console.print()


def _parts_table(plan: CostPlan) -> Table:
    table = plain_table("part", "parameters", "by Table 2", "forward per image", "kept per image")
    for name, part in plan.parts.items():
        stated = f"{part.table_2 / 1e6:.2f} M" if part.table_2 else ""
        table.add_row(name, *_cost(part.cost, stated, part.passes))
    everything = total(part.cost for part in plan.parts.values())
    activations = sum(part.passes * part.cost.activations for part in plan.parts.values())
    table.add_row("total", *_cost(everything._replace(activations=activations), "", 1), style="bold")
    return table


def _cost(cost: Cost, table_2: str, passes: int) -> tuple[str, str, str, str]:
    forward, activations = flops_text(cost.flops), f"{passes * cost.activations / 1e6:.2f} M numbers"
    return f"{cost.parameters / 1e6:.2f} M", table_2, forward, activations


def _step_table(plan: CostPlan) -> Table:
    batch, devices = plan.train.batch_size, plan.devices
    table = plain_table("training step", f"{batch} images", "per image")
    for name, flops in plan.flops.items():
        every = plan.averaged.get(name, 1)
        label = f"{name}, on one step of {every}" if every > 1 else name
        table.add_row(label, flops_text(batch * flops), flops_text(flops))
    table.add_row(
        "on average", flops_text(plan.step_flops), flops_text(plan.step_flops / batch), style="bold"
    )
    table.add_row(
        f"read: {plan.example}", bytes_text(batch * plan.example_bytes), bytes_text(plan.example_bytes)
    )
    rate = f"{devices.count} x {devices.tflops:.3g} TFLOP/s, {devices.utilization:.0%} of it reached"
    table.add_row(f"time on {rate}", seconds_text(plan.step_seconds), style="bold")
    table.add_row(f"time of {plan.train.steps} steps", seconds_text(plan.train.steps * plan.step_seconds))
    return table


def _memory_table(plan: CostPlan) -> Table:
    images = plan.train.batch_size // plan.devices.count // plan.train.gradient_accumulation_steps
    table = plain_table("memory of a device", f"{images} images at once")
    for name, size in plan.memory.items():
        if size:
            table.add_row(name, bytes_text(size))
    table.add_row("total", bytes_text(sum(plan.memory.values())), style="bold")
    return table


def plain_table(first: str, *others: str) -> Table:
    """A table without lines, whose columns but the first are aligned to the right."""
    table = Table(first, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in others:
        table.add_column(header, justify="right")
    return table


def flops_text(flops: float) -> str:
    """FLOPs for people."""
    return f"{flops / 1e12:.2f} TFLOP" if flops >= 1e12 else f"{flops / 1e9:.2f} GFLOP"


def bytes_text(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def seconds_text(seconds: float) -> str:
    """A duration for people."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
