"""Time of drawing images, compared to what its products alone take: `python -m benchmarks.sampling`.

A 12-block, 768-wide model with random weights over 8192 codes draws 128 tokens of each image. The bound is
the time of the products of a pass alone, 12 blocks and the logits, with as many rows as the pass has slots.
Both alternate in one process, since a shared machine's speed drifts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import click
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from serving.export.sampling_params import BatchSamplingParams, SamplingRequest
from trainers.training.config import Precision, Transformer
from trainers.vim.cached import Weights
from trainers.vim.config import Model
from trainers.vim.config import Sampler as Options
from trainers.vim.model import VIM
from trainers.vim.sampler import Drawn, Sampler
from trainers.vim.slots import SIZES

BASE = Transformer(blocks=12, heads=12, width=768, hidden=3072)
TINY = Transformer(blocks=2, heads=2, width=16, hidden=32)


class Size(NamedTuple):
    """A model."""

    transformer: Transformer
    codes: int


WHOLE = Size(BASE, codes=8192)
QUICK = Size(TINY, codes=32)


@click.command()
@click.option("--batch", type=click.IntRange(1, 64), multiple=True, default=(1, 4, 16, 64), show_default=True)
@click.option("--first", default=0, show_default=True, help="Tokens that are given; drawing begins there.")
@click.option("--tokens", default=128, show_default=True, help="Tokens that are drawn.")
@click.option("--engine", type=click.Choice(["sequential", "jacobi"]), default="sequential")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32")
@click.option("--repetitions", default=3, show_default=True, help="Of each; the median is shown.")
@click.option("--quick", is_flag=True, help="Smoke test: a tiny model, one repetition.")
def main(
    batch: tuple[int, ...],
    first: int,
    tokens: int,
    engine: str,
    precision: Precision,
    repetitions: int,
    quick: bool,
) -> None:
    """Time drawing relative to its products."""
    size = QUICK if quick else WHOLE
    first, tokens, repetitions = (4, 8, 1) if quick else (first, tokens, repetitions)
    model = VIM(
        Model(transformer=size.transformer, dropout=0.0, class_conditional=False),
        tokens=first + tokens,
        codebook_size=size.codes,
        classes=0,
    )
    options = Options(engine=engine, weights=precision, cache=precision, jacobi_slots=16)
    drawing, products = _drawing(model, options), _products(model, options)
    table = Table("images", "passes", "ms a pass", "tokens/s", "slots", "of its products")
    for images in batch:
        slots = next((size for size in SIZES if size >= images), SIZES[-1])
        if engine == "jacobi":
            slots = max(slots, options.jacobi_slots)
        _time(drawing, images, first)
        _time(products, slots, 2)
        seconds, bounds, passes = [], [], 1
        for _ in range(repetitions):
            # The pass over what is given is subtracted.
            given = _time(drawing, images, first + tokens) if first else 0.0
            whole, passes = _timed(drawing, images, first)
            seconds.append((whole - given) / passes)
            one, many = _time(products, slots, 1), _time(products, slots, 9)
            bounds.append((many - one) / 8)
        a_pass, bound = statistics.median(seconds), statistics.median(bounds)
        rate = images * tokens / (a_pass * passes)
        row = f"{passes}", f"{1000 * a_pass:.1f}", f"{rate:.1f}", f"{slots}", f"{bound / a_pass:.0%}"
        table.add_row(str(images), *row)
        click.echo(f"{images} images: {', '.join(row)}", err=True)
    Console(width=120).print(table)


def _drawing(model: VIM, options: Options) -> Callable[[int, int], Drawn]:
    """Return a function (images, given tokens) -> images that are drawn from there on."""
    sampler = Sampler(model, options)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.int32)] * 2)
    def draw(images: tf.Tensor, first: tf.Tensor) -> Drawn:
        one, none = tf.ones([images]), tf.zeros([images], tf.int32)
        return sampler(
            SamplingRequest(
                class_id=none,
                seed=tf.range(tf.cast(images, tf.int64)),
                params=BatchSamplingParams(one, none, one, one, one),
                prompt=tf.zeros([images, model.tokens], tf.int32),
                prompt_length=none + first,
            )
        )

    return lambda images, first: draw(tf.constant(images), tf.constant(first))


def _products(model: VIM, options: Options) -> Callable[[int, int], tf.Tensor]:
    """Return a function (rows, passes) that makes the products of passes, and nothing else of them."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.int32)] * 2)
    def multiply(rows: tf.Tensor, passes: tf.Tensor) -> tf.Tensor:
        weights = Weights.of(model, tf.as_dtype(options.weights))
        width = model.options.transformer.width

        def body(number: tf.Tensor, x: tf.Tensor, seen: tf.Tensor) -> Sequence[tf.Tensor]:
            for kernels in weights.blocks:
                attended = tf.matmul(tf.matmul(x, kernels.qkv)[:, :width], kernels.out)
                x += tf.matmul(tf.matmul(attended, kernels.expand), kernels.contract)
            logits = tf.matmul(tf.cast(x, tf.float32), weights.logits)
            return number + 1, 0.1 * x, seen + tf.reduce_max(logits)

        x = tf.ones([rows, width], tf.as_dtype(options.weights))
        return tf.while_loop(lambda number, *_: number < passes, body, (0, x, 0.0))[2]

    return lambda rows, passes: multiply(tf.constant(rows), tf.constant(passes)).numpy()


def _time(run: Callable[[int, int], object], images: int, other: int) -> float:
    begin = time.perf_counter()
    run(images, other)
    return time.perf_counter() - begin


def _timed(run: Callable[[int, int], Drawn], images: int, first: int) -> tuple[float, int]:
    begin = time.perf_counter()
    passes = int(tf.reduce_max(run(images, first).passes))
    return time.perf_counter() - begin, passes


if __name__ == "__main__":
    main()
