"""What a configuration would cost to train: parameters, FLOPs, memory, data and time.

All of it follows from sizes; no model is built, no data read, and TensorFlow not imported, but to ask an
imported tokenizer for its sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from rich.console import Console
from rich.table import Table

from tfx_pipeline.config import Config, ConfigError, ImportedTokenizer
from trainers.accounting import FLOAT32_BYTES, Cost, activation_bytes, table_2, total
from trainers.training.config import Rule, Train, Transformer
from trainers.vim import accounting as vim
from trainers.vit_vqgan import accounting as vit_vqgan

ADAM_SLOTS = 2
# What may be shared out among devices, in the order of ZeRO's stages, as the keys of `Plan.memory`.
SHARDED = {
    "optimizer": (*(f"optimizer, {rule}" for rule in get_args(Rule)), "average of weights"),
    "gradients": ("gradients",),
    "weights": ("weights",),
}
# About that of a photograph as PNG; ImageNet's own JPEGs, of all sizes, have 110 kB on average.
BYTES_PER_PIXEL = 2
# A token Example holds key, label and names of features beside its tokens.
TOKEN_EXAMPLE_BYTES = 100


@dataclass(frozen=True)
class Devices:
    """What trains: how many devices, each one's peak rate, the share of it that is reached, and its bytes."""

    count: int
    tflops: float
    utilization: float
    memory: float | None = None

    @property
    def flops_per_second(self) -> float:
        """FLOPs that all devices together do in a second."""
        return self.count * self.tflops * 1e12 * self.utilization


@dataclass(frozen=True)
class Part:
    """A network, or a part of one.

    Attributes:
      cost: that of one image's forward pass.
      rule: the optimizer's that moves it; what is frozen has none, and neither gradients nor slots.
      table_2: parameters by Table 2's accounting, where it has one.
      passes: forward passes a step whose activations are kept at once.
    """

    cost: Cost
    rule: Rule | None
    table_2: int | None = None
    passes: int = 1

    @property
    def slots(self) -> int:
        """Bytes of the optimizer's slots."""
        if self.rule == "adafactor":
            return self.cost.adafactor
        return ADAM_SLOTS * FLOAT32_BYTES * self.cost.parameters if self.rule else 0


@dataclass(frozen=True)
class Plan:
    """The training of one stage.

    Attributes:
      parts: what it is made of, by name.
      flops: FLOPs of a step for each image, by what they are for.
      averaged: FLOPs among these that only one step of so many does.
      example_bytes: what is read for each image; `example` says of what kind.
      averaged_parts: parts of whose weights a moving average is kept.
    """

    title: str
    train: Train
    devices: Devices
    parts: Mapping[str, Part]
    flops: Mapping[str, int]
    averaged: Mapping[str, int]
    example: str
    example_bytes: int
    averaged_parts: frozenset[str]

    @property
    def step_flops(self) -> float:
        """FLOPs of a step over the whole batch; what few steps do is averaged over all."""
        one = sum(flops / self.averaged.get(name, 1) for name, flops in self.flops.items())
        return one * self.train.batch_size

    @property
    def step_seconds(self) -> float:
        """Seconds a step at the devices' rate."""
        return self.step_flops / self.devices.flops_per_second

    @property
    def memory(self) -> dict[str, int]:
        """Bytes on each device, which holds all weights and its share of the batch.

        Weights, gradients and Adam's two slots take 4 bytes a parameter each, Adafactor's slots about 1 for
        both; gradients are there twice where parts of a batch are added up (`accumulate`), and an average of
        weights (`ema_decay`) takes 4 bytes more. Activations are `trainers.accounting`'s estimate for the
        images that a device has at once; what R1 keeps on its step is not among them, nor are workspaces and
        the input pipeline.
        """
        learned = sum(part.cost.parameters for part in self.parts.values() if part.rule)
        average = sum(self.parts[name].cost.parameters for name in self.averaged_parts)
        images = self.train.batch_size // self.devices.count // self.train.accumulate
        low_precision = self.train.precision == "bfloat16"
        activations = sum(
            part.passes * activation_bytes(part.cost, low_precision=low_precision)
            for part in self.parts.values()
        )
        weights = sum(part.cost.parameters for part in self.parts.values())
        copies = 1 if self.train.accumulate == 1 else 2
        return {
            "weights": FLOAT32_BYTES * weights,
            "gradients": FLOAT32_BYTES * copies * learned,
            **{f"optimizer, {rule}": self._slots(rule) for rule in get_args(Rule)},
            "average of weights": FLOAT32_BYTES * average,
            "activations": images * activations,
        }

    def _slots(self, rule: Rule) -> int:
        return sum(part.slots for part in self.parts.values() if part.rule == rule)

    @property
    def verdict(self) -> str:
        """Whether the memory of a device is enough, and what would have to be shared out if it is not.

        The trainers keep all of it on each device. Sharded among n of them, each would hold a share 1 / n of
        the optimizer's state, of the gradients too, of the weights too (the three stages of ZeRO, Rajbhandari
        et al. 2019). Named is the first of these stages that is enough, with the fewest devices.
        """
        memory, size = self.memory, self.devices.memory
        assert size is not None
        if sum(memory.values()) <= size:
            return f"Fits in {_bytes(size)}."
        shards = [n for n in range(2, self.devices.count + 1) if self.devices.count % n == 0]
        names = list(SHARDED)
        for count in range(1, len(names) + 1):
            shared = sum(memory[key] for name in names[:count] for key in SHARDED[name])
            whole = sum(memory.values()) - shared
            for n in shards:
                if whole + shared / n <= size:
                    return f"Too much for {_bytes(size)}: {', '.join(names[:count])} would need {n} shards."
        activations = _bytes(memory["activations"])
        return f"Too much for {_bytes(size)}, however sharded: activations take {activations}."


def stage_1(config: Config, devices: Devices, *, image_bytes: int | None = None) -> Plan:
    """The plan of the tokenizer's training, for encoded images of `image_bytes` on average.

    Where nothing is known of them, they are assumed to be stored at `data.image_size`, with 2 bytes for each
    pixel; larger ones are stored, and read, as large as they are found.

    Raises:
      ConfigError: the batch cannot be shared out among the devices, or the tokenizer is imported.
    """
    stage, size = config.trained_stage1, config.data.image_size
    _check_batch("stage1", stage.train, devices)
    costs = vit_vqgan.parts(stage.model, image_size=size, recompute=stage.train.recompute)
    towers = {"encoder": stage.model.encoder, "decoder": stage.model.decoder}
    own = stage.train.optimizer
    parts = {name: Part(cost, own.rule, table_2=_table_2(towers.get(name))) for name, cost in costs.items()}
    critics = vit_vqgan.critics(stage, image_size=size)
    if "discriminator" in critics:
        # Image and reconstruction.
        rule = (stage.adversary.optimizer or own).rule
        parts["discriminator"] = Part(critics["discriminator"], rule, passes=2)
    if "perceptual" in critics:
        parts["perceptual (frozen)"] = Part(critics["perceptual"], None)
    unknown = stage.perceptual.savedmodel if stage.loss.perceptual else None
    example, example_bytes = _images(size, image_bytes)
    return Plan(
        title="Stage 1, the tokenizer" + (f" (without {stage.perceptual.network})" if unknown else ""),
        train=stage.train,
        devices=devices,
        parts=parts,
        flops=vit_vqgan.step_flops(stage, image_size=size),
        averaged={"r1": stage.adversary.r1_every},
        example=example,
        example_bytes=example_bytes,
        averaged_parts=frozenset(costs if stage.train.ema_decay else ()),
    )


def stage_2(config: Config, devices: Devices, *, image_bytes: int | None = None) -> Plan:
    """The plan of the image model's training; classes are the data's to say, and not counted.

    With tokens made on the fly, images are read (`image_bytes` as for `stage_1`), and the frozen tokenizer
    lies on every device and encodes. Nothing is known of the size of an imported one.

    Raises:
      ConfigError: the batch cannot be shared out among the devices, or an imported tokenizer cannot be had.
    """
    stage, size = config.stage2, config.data.image_size
    _check_batch("stage2", stage.train, devices)
    tokens, codes = _vocabulary(config)
    recompute = stage.train.recompute
    costs = vim.parts(stage.model, tokens=tokens, codebook_size=codes, classes=0, recompute=recompute)
    towers = {"blocks": stage.model.transformer}
    rule = stage.train.optimizer.rule
    parts = {name: Part(cost, rule, table_2=_table_2(towers.get(name))) for name, cost in costs.items()}
    flops = vim.step_flops(stage.model, tokens=tokens, codebook_size=codes, recompute=recompute)
    unknown = stage.tokens == "on_the_fly" and isinstance(config.stage1, ImportedTokenizer)
    if stage.tokens == "on_the_fly":
        if not unknown:
            model = config.trained_stage1.model
            # No gradient flows through it, so that nothing is kept for the way back.
            tokenizer = vit_vqgan.reconstruct(model, image_size=size)._replace(activations=0, float32=0)
            parts["tokenizer (frozen)"] = Part(tokenizer, None)
            flops["encode"] = vit_vqgan.encode(model, image_size=size).flops
        example, example_bytes = _images(size, image_bytes)
    else:
        # A protocol buffer's integer takes a byte for every 7 bits.
        token_bytes = max(1, -(-(codes - 1).bit_length() // 7))
        example, example_bytes = "tokens", tokens * token_bytes + TOKEN_EXAMPLE_BYTES
    return Plan(
        title="Stage 2, the image model" + (" (without the imported tokenizer)" if unknown else ""),
        train=stage.train,
        devices=devices,
        parts=parts,
        flops=flops,
        averaged={},
        example=example,
        example_bytes=example_bytes,
        averaged_parts=frozenset(costs if stage.train.ema_decay else ()),
    )


def _vocabulary(config: Config) -> tuple[int, int]:
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
    """What is said of the images that are read, and the bytes of one."""
    if image_bytes:
        return "encoded images", image_bytes
    return f"images of {size} x {size}, {BYTES_PER_PIXEL} bytes a pixel", BYTES_PER_PIXEL * size**2


def _table_2(size: object) -> int | None:
    return table_2(size) if isinstance(size, Transformer) else None


def _check_batch(stage: str, train: Train, devices: Devices) -> None:
    shares = devices.count * train.accumulate
    if train.batch_size % shares:
        raise ConfigError(
            f"{stage}.train.batch_size {train.batch_size} is not a multiple of {shares}: "
            f"{devices.count} devices, each in {train.accumulate} parts (accumulate)"
        )


def show(plan: Plan, console: Console) -> None:
    """Prints a plan."""
    console.print(plan.title, style="bold")
    for table in (_parts_table(plan), _step_table(plan), _memory_table(plan)):
        console.print(table)
        console.print()
    if plan.devices.memory:
        console.print(plan.verdict, style="bold")
        console.print()


def _parts_table(plan: Plan) -> Table:
    table = _table("part", "parameters", "by Table 2", "forward per image", "kept per image")
    for name, part in plan.parts.items():
        stated = f"{part.table_2 / 1e6:.2f} M" if part.table_2 else ""
        table.add_row(name, *_cost(part.cost, stated, part.passes))
    everything = total(part.cost for part in plan.parts.values())
    activations = sum(part.passes * part.cost.activations for part in plan.parts.values())
    table.add_row("total", *_cost(everything._replace(activations=activations), "", 1), style="bold")
    return table


def _cost(cost: Cost, table_2: str, passes: int) -> tuple[str, str, str, str]:
    forward, activations = _flops(cost.flops), f"{passes * cost.activations / 1e6:.2f} M numbers"
    return f"{cost.parameters / 1e6:.2f} M", table_2, forward, activations


def _step_table(plan: Plan) -> Table:
    batch, devices = plan.train.batch_size, plan.devices
    table = _table("training step", f"{batch} images", "per image")
    for name, flops in plan.flops.items():
        every = plan.averaged.get(name, 1)
        label = f"{name}, on one step of {every}" if every > 1 else name
        table.add_row(label, _flops(batch * flops), _flops(flops))
    table.add_row("on average", _flops(plan.step_flops), _flops(plan.step_flops / batch), style="bold")
    table.add_row(f"read: {plan.example}", _bytes(batch * plan.example_bytes), _bytes(plan.example_bytes))
    rate = f"{devices.count} x {devices.tflops:g} TFLOP/s, {devices.utilization:.0%} of it reached"
    table.add_row(f"time on {rate}", _seconds(plan.step_seconds), style="bold")
    table.add_row(f"time of {plan.train.steps} steps", _seconds(plan.train.steps * plan.step_seconds))
    return table


def _memory_table(plan: Plan) -> Table:
    images = plan.train.batch_size // plan.devices.count // plan.train.accumulate
    table = _table("memory of a device", f"{images} images at once")
    for name, size in plan.memory.items():
        if size:
            table.add_row(name, _bytes(size))
    table.add_row("total", _bytes(sum(plan.memory.values())), style="bold")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in others:
        table.add_column(header, justify="right")
    return table


def _flops(flops: float) -> str:
    return f"{flops / 1e12:.2f} TFLOP" if flops >= 1e12 else f"{flops / 1e9:.2f} GFLOP"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def _seconds(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
