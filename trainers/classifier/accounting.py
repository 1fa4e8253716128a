"""Costs of the classifier and of its training (`trainers.accounting` defines what is counted)."""

from __future__ import annotations

from serving.export.metadata import CHANNELS
from trainers.accounting import Cost, convolution, dense, kept, norm, total
from trainers.classifier.config import Model

STAGES = 3


def parts(model: Model, *, image_size: int, classes: int) -> dict[str, Cost]:
    """Costs of `stem`, `blocks` and, with classes, `logits` for images of S x S pixels."""
    side, width = image_size, model.width
    stem = [convolution(CHANNELS, width, kernel=3, side=side, bias=False), *_norm_relu(width, side)]
    blocks: list[Cost] = []
    for stage in range(STAGES):
        for index in range(model.blocks_per_stage):
            filters, stride = model.width * 2**stage, 2 if stage and not index else 1
            side = -(-side // stride)
            blocks += _block(width, filters, side=side, stride=stride)
            width = filters
    costs = {"stem": total(stem), "blocks": total(blocks)}
    return {**costs, "logits": dense(width, classes, rows=1)} if classes else costs


def step_flops(model: Model, *, image_size: int) -> dict[str, int]:
    """FLOPs of a training step for each of its images: 3 forward passes."""
    costs = parts(model, image_size=image_size, classes=0)
    return {"classifier": 3 * total(costs.values()).flops}


def _block(inputs: int, filters: int, *, side: int, stride: int) -> list[Cost]:
    """Two convolutions with batch norm, and a 1x1 convolution on the shortcut where the shape changes."""
    shortcut = [convolution(inputs, filters, kernel=1, side=side, bias=False)] if stride > 1 else []
    return [
        convolution(inputs, filters, kernel=3, side=side, stride=stride, bias=False),
        *_norm_relu(filters, side),
        convolution(filters, filters, kernel=3, side=side, bias=False),
        *_norm_relu(filters, side),
        *shortcut,
    ]


def _norm_relu(width: int, side: int) -> list[Cost]:
    return [norm(width, rows=side**2, float32=False), kept(width * side**2)]
