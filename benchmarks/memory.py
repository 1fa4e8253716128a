"""What saving memory costs a stack of Transformer blocks: `python -m benchmarks.memory`.

Counts the gradients of a few blocks as XLA compiles them (benchmarks.hlo): FLOPs, bytes that are moved, and
bytes that are held, a block each. The blocks are those of the ImageNet presets, at 1024 tokens. `--time` adds
the time on this CPU, without XLA, as a multiple of the plain form's.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import click
import keras
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from benchmarks import hlo
from tfx_pipeline.config import load
from trainers.training.config import Memory, Transformer
from trainers.transformer import Block, run_blocks

FORMS = {
    "plain": Memory(),
    "blockwise attention": Memory(blockwise_attention=True),
    "gradient checkpointing": Memory(gradient_checkpointing=True),
    "both": Memory(gradient_checkpointing=True, blockwise_attention=True),
}
# Differences between these numbers of blocks are a block's own.
FEW, MORE = 1, 3


class Stack(NamedTuple):
    """Blocks to count, at a number of images of N tokens each."""

    size: Transformer
    causal: bool
    dropout: float
    images: int
    tokens: int


@click.command()
@click.option("--images", default=4, show_default=True, help="Images at once.")
@click.option("--time", "timed", is_flag=True, help="Time each form on this CPU too.")
@click.option("--quick", is_flag=True, help="Smoke test: tiny blocks, 64 tokens.")
def main(images: int, timed: bool, quick: bool) -> None:
    """Count what saving memory costs the blocks of the ImageNet presets."""
    config = load("imagenet256_ss", small=quick)
    encoder, vim = config.trained_stage1.model.encoder, config.stage2.model
    assert isinstance(encoder, Transformer)
    tokens = 64 if quick else 1024
    stacks = {
        "ViT-VQGAN Small": Stack(encoder, False, 0.0, images, tokens),
        "VIM-Large": Stack(vim.transformer, True, vim.dropout, images, tokens),
    }
    table = Table("block", "form", "GFLOP", "MB moved", "MB held", *(["time"] if timed else []))
    for name, stack in stacks.items():
        plain = 0.0
        for form, memory in FORMS.items():
            few, more = (_count(stack, memory, blocks) for blocks in (FEW, MORE))
            own = [(b - a) / (MORE - FEW) for a, b in zip(few, more, strict=True)]
            seconds = _seconds(stack, memory) if timed else 0.0
            plain = plain or seconds
            table.add_row(
                name,
                form,
                f"{own[0] / 1e9:.1f}",
                f"{own[1] / 1e6:.0f}",
                f"{own[2] / 1e6:.0f}",
                *([f"{seconds / plain:.2f} x"] if timed else []),
            )
            keras.backend.clear_session()
    Console(width=110).print(table)


def _blocks(stack: Stack, count: int) -> list[Block]:
    blocks = [Block(stack.size, causal=stack.causal, dropout=stack.dropout) for _ in range(count)]
    for block in blocks:
        block.build((stack.images, stack.tokens, stack.size.width))
    return blocks


def _gradients(blocks: list[Block], memory: Memory, x: tf.Tensor) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = run_blocks(blocks, x, training=True, memory=memory)
        loss = tf.reduce_sum(y * y)
    return tape.gradient(
        loss, [x, *(weight.value for block in blocks for weight in block.trainable_variables)]
    )


def _count(stack: Stack, memory: Memory, count: int) -> hlo.Count:
    blocks = _blocks(stack, count)
    x = tf.ones([stack.images, stack.tokens, stack.size.width])
    return hlo.count(lambda x: _gradients(blocks, memory, x), x)


def _seconds(stack: Stack, memory: Memory) -> float:
    """The fastest of three calls of one block."""
    blocks = _blocks(stack, 1)
    step = tf.function(lambda x: _gradients(blocks, memory, x), autograph=False)
    x = tf.random.stateless_normal([stack.images, stack.tokens, stack.size.width], [0, 0])
    times = []
    for _ in range(4):
        started = time.perf_counter()
        step(x)[0].numpy()
        times.append(time.perf_counter() - started)
    return min(times[1:])


if __name__ == "__main__":
    main()
