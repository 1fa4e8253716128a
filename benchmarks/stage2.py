"""Training speed of the image model: `python -m benchmarks.stage2`.

Tokens are random numbers and no data is read, so only the model and its preset's optimizer are timed.
`benchmarks.sampling` measures the speed of sampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import click
import tensorflow as tf
from rich.console import Console

from benchmarks.interleaved import MatrixProduct, Work, tabulate
from tfx_pipeline.config import load
from trainers.training.config import Transformer
from trainers.training.step import loss_gradients, training_step
from trainers.training.train_state import TrainState
from trainers.vim import accounting
from trainers.vim.model import VIM
from trainers.vim.trainer import losses

CLASSES = 10
DROPOUTS = {"step": 0.0, "step, dropout 0.1": 0.1}


class Size(NamedTuple):
    """A preset, its images per step, and a transformer if not the preset's."""

    preset: str
    images: int
    transformer: Transformer | None = None


# 12 blocks of width 768 instead of VIM-Large's 36 of 2048, a step of which would take minutes here.
SIZES = {
    "1024 tokens": Size("imagenet256_ss", 2, Transformer(blocks=12, heads=12, width=768, hidden=3072)),
    "cifar10": Size("cifar10", 64),
    "digits": Size("digits", 64),
}


@click.command()
@click.option("--only", type=click.Choice(list(SIZES)), multiple=True, help="Only this size; repeatable.")
@click.option("--jit/--no-jit", default=None, help="Compile steps with XLA or not, overriding presets.")
@click.option("--repetitions", default=7, show_default=True, help="Per measurement; the median is used.")
@click.option("--quick", is_flag=True, help="Smoke test: tiny models, one repetition.")
def main(only: tuple[str, ...], jit: bool | None, repetitions: int, quick: bool) -> None:
    """Time stage 2's training step relative to a float32 matrix product on this machine."""
    works = (work for size in only or SIZES for work in _works(size, jit=jit, quick=quick))
    yardstick = MatrixProduct(256 if quick else 2048)
    Console(width=110).print(tabulate(works, yardstick=yardstick, repetitions=1 if quick else repetitions))


def _works(size: str, *, jit: bool | None, quick: bool) -> Iterator[Work]:
    preset, images, transformer = SIZES[size]
    config = load(preset, small=quick)
    plainly = {"batch_size": images, "gradient_checkpointing": False, "ema_decay": None}
    train = config.stage2.train.model_copy(update=plainly)
    tokens = (config.data.image_size // config.trained_stage1.model.patch_size) ** 2
    codes = config.trained_stage1.model.codebook.size
    compiled = train.jit_compile if jit is None else jit
    for name, dropout in DROPOUTS.items():
        changes = {"dropout": dropout} | ({"transformer": transformer} if transformer and not quick else {})
        options = config.stage2.model.model_copy(update=changes)
        model = VIM(options, tokens=tokens, codebook_size=codes, classes=CLASSES)
        state = TrainState(model, train)
        step = tf.function(
            training_step([state], loss_gradients(state, partial(losses, model, training=True))),
            jit_compile=compiled,
            autograph=False,
        )
        batch = {
            "tokens": tf.random.stateless_uniform([images, tokens], [0, 0], maxval=codes, dtype=tf.int32),
            "label": tf.range(images) % CLASSES,
        }
        flops = images * sum(accounting.step_flops(options, tokens=tokens, codebook_size=codes).values())
        yield Work(size, name, images, compiled, flops, partial(_run, step, batch))


def _run(step: tf.types.experimental.PolymorphicFunction, batch: dict[str, tf.Tensor]) -> float:
    return float(step(batch)["loss"])


if __name__ == "__main__":
    main()
