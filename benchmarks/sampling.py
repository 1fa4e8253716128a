"""Time per sampled token, compared to memory bandwidth: `python -m benchmarks.sampling`.

A 12-block, 768-wide model with random weights over 8192 codes samples images of 1024 tokens. Each token reads
the weights once, whatever the batch size, and the part of each row's cache that is already written. The bound
is the time of these reads alone. The memory bandwidth is measured in the same process, right before and
after each call, as the faster of two ways to read as many bytes.
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

from serving.export.sampling_params import BatchSamplingParams
from trainers.training.config import Transformer
from trainers.transformer import init_cache
from trainers.vim.config import Model
from trainers.vim.model import VIM
from trainers.vim.sampling import sample_token, step

FLOAT32_BYTES = 4
# Fewer bytes would stay in the CPU's caches, which are faster than memory.
LEAST_READ = 2**28
BASE = Transformer(blocks=12, heads=12, width=768, hidden=3072)
TINY = Transformer(blocks=2, heads=2, width=16, hidden=32)


class Size(NamedTuple):
    """A model, its images, and the positions at which a token is timed."""

    transformer: Transformer
    codes: int
    tokens: int
    places: tuple[int, ...]
    reached: tuple[int, ...]


WHOLE = Size(BASE, codes=8192, tokens=1024, places=(100, 1000), reached=(128, 1024))
QUICK = Size(TINY, codes=32, tokens=16, places=(2, 12), reached=(4, 16))


class Reading(NamedTuple):
    """Measures this machine's memory bandwidth, the reference."""

    numbers: tf.Variable
    ways: Sequence[Callable[[], tf.Tensor]]

    @classmethod
    def of(cls, bytes_read: int) -> Reading:
        """Reduce `bytes_read` bytes, rounded up to whole matrices, by sum and by maximum.

        There are many matrices because each is reduced by a single core.
        """
        width, height = 1024, 512
        count = -(-bytes_read // (width * height * FLOAT32_BYTES))
        numbers = tf.Variable(tf.ones([count, height, width]))
        ways = (
            lambda: tf.reduce_sum(numbers, axis=[1, 2]),
            lambda: tf.reduce_max(numbers, axis=[1, 2]),
        )
        return cls(numbers, [tf.function(way) for way in ways])

    def rate(self) -> float:
        """Return the current bytes per second of the faster way."""
        return FLOAT32_BYTES * int(tf.size(self.numbers)) / min(map(_time, self.ways))


@click.command()
@click.option("--batch", type=click.IntRange(1), multiple=True, default=(1, 4, 16, 64), show_default=True)
@click.option("--steps", default=16, show_default=True, help="Tokens that are timed together at a position.")
@click.option("--repetitions", default=5, show_default=True, help="Per measurement; the median is used.")
@click.option("--whole", is_flag=True, help="Sample whole images as well: time to 128 and to 1024 tokens.")
@click.option("--quick", is_flag=True, help="Smoke test: a tiny model, one repetition.")
def main(batch: tuple[int, ...], steps: int, repetitions: int, whole: bool, quick: bool) -> None:
    """Time sampling relative to this machine's memory bandwidth."""
    size = QUICK if quick else WHOLE
    steps, repetitions = (2, 1) if quick else (steps, repetitions)
    model = VIM(
        Model(transformer=size.transformer, dropout=0.0),
        tokens=size.tokens,
        codebook_size=size.codes,
        classes=0,
    )
    weights = _bytes_of_weights(model)
    reading = Reading.of(max(weights, LEAST_READ))
    run = _drawing(model)
    places = [f"{what} at token {place}" for place in size.places for what in ("ms", "of bound")]
    reached = [f"s to {tokens} tokens" for tokens in size.reached] if whole else []
    table = Table("images", *places, "tokens/s", *reached)
    rates: list[float] = []
    for rows in batch:
        cells, last = [], 0.0
        for place in size.places:
            seconds, rate = _seconds_a_token(run, rows, place, steps, repetitions, reading)
            cache = _bytes_of_cache(model, rows, place)
            rates.append(rate)
            cells += [f"{1000 * seconds:.1f}", f"{(weights + cache) / rate / seconds:.0%}"]
            last = seconds
            click.echo(f"{rows} images, token {place}: {cells[-2]} ms, {cells[-1]} of the bound", err=True)
        cells.append(f"{rows / last:.1f}")
        cells += [f"{_seconds(run, rows, 0, tokens):.1f}" for tokens in size.reached] if whole else []
        table.add_row(str(rows), *cells)
    table.caption = (
        f"bound: {weights / 1e6:.0f} MB of weights and each row's cache so far, read at "
        f"{statistics.median(rates) / 1e9:.1f} GB/s"
    )
    Console(width=120).print(table)


def _drawing(model: VIM) -> Callable[..., tf.Tensor]:
    """Return a function (first tokens int32 [B], start, stop position) -> last tokens, int32 [B]."""

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([], tf.int32),
        ],
    )
    def run(first: tf.Tensor, start: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
        rows = tf.shape(first)[0]
        half, one, none = tf.fill([rows], 0.5), tf.ones([rows]), tf.zeros([rows], tf.int32)
        params = BatchSamplingParams(one, none, one, one, one)

        def body(place, token, caches):
            logits, caches = step(model, tf.gather(model.token_embedding, token), caches, place)
            return place + 1, sample_token(logits, half, params), caches

        empty = [init_cache(block.attention, rows, model.tokens) for block in model.blocks]
        return tf.while_loop(lambda place, *_: place < stop, body, (start, first, empty))[1]

    return run


def _time(way: Callable[[], tf.Tensor]) -> float:
    begin = time.perf_counter()
    way().numpy()
    return time.perf_counter() - begin


def _seconds(run: Callable[..., tf.Tensor], rows: int, start: int, stop: int) -> float:
    begin = time.perf_counter()
    run(tf.zeros([rows], tf.int32), tf.constant(start), tf.constant(stop)).numpy()
    return time.perf_counter() - begin


def _seconds_a_token(
    run: Callable[..., tf.Tensor], rows: int, place: int, steps: int, repetitions: int, reading: Reading
) -> tuple[float, float]:
    """Return the medians of seconds per token at a position and of the memory bandwidth meanwhile.

    Each call creates loop and cache again, so the time of a call for a single token is subtracted.
    """
    _seconds(run, rows, place, place + 2)
    seconds, rates = [], []
    for _ in range(repetitions):
        before = reading.rate()
        one, all_of_them = (
            _seconds(run, rows, place, place + 1),
            _seconds(run, rows, place, place + 1 + steps),
        )
        seconds.append((all_of_them - one) / steps)
        rates.append((before + reading.rate()) / 2)
    return statistics.median(seconds), statistics.median(rates)


def _bytes_of_weights(model: VIM) -> int:
    """Return the bytes of weights that a token reads: all but the embedding tables (one row each)."""
    read = sum(int(tf.size(variable)) for block in model.blocks for variable in block.trainable_variables)
    return FLOAT32_BYTES * (read + int(tf.size(model.logits.kernel)))


def _bytes_of_cache(model: VIM, rows: int, place: int) -> int:
    """Return the bytes of all blocks' keys and values up to a position."""
    size = model.options.transformer
    return FLOAT32_BYTES * rows * size.blocks * 2 * size.width * (place + 1)


if __name__ == "__main__":
    main()
