"""Speed as a share of what this machine does at the same moment.

On a machine that others use too, seconds say little: its speed drifts by a factor of two within minutes.
So a float32 matrix product is timed right before and right after each repetition of the work, and the
work's FLOPs a second are divided by the product's. The median over repetitions is what counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import click
import keras
import tensorflow as tf
from rich.table import Table


@dataclass(frozen=True)
class Measured:
    """Medians over repetitions.

    Attributes:
      seconds: of one repetition, by the clock.
      share: FLOPs a second over those of the matrix product, by the clock.
      processor_share: the same, by the processor time of all threads. It does not see cores that idle
        because the work is not parallel, and it is not disturbed by whoever else wants the cores.
      rate: FLOPs a second of the matrix product, by the clock.
    """

    seconds: float
    share: float
    processor_share: float
    rate: float


class MatrixProduct:
    """The yardstick: a float32 product of two square matrices, 2 size^3 FLOPs."""

    def __init__(self, size: int = 2048):
        self.flops = 2 * size**3
        factors = [tf.random.stateless_uniform([size, size], seed=[0, index]) for index in range(2)]
        product = tf.function(tf.matmul)
        self._run = lambda: product(*factors).numpy()
        self._run()

    def rates(self) -> tuple[float, float]:
        """FLOPs a second by the clock, and by processor time."""
        seconds, processor_seconds = _time(self._run)
        return self.flops / seconds, self.flops / processor_seconds


def measure(
    work: Callable[[], object], *, flops: int, yardstick: MatrixProduct, repetitions: int
) -> Measured:
    """Times `work`, which does `flops` FLOPs and returns when they are done, after one call to warm up."""
    work()
    rows = []
    for _ in range(repetitions):
        before = yardstick.rates()
        seconds, processor_seconds = _time(work)
        after = yardstick.rates()
        rate, processor_rate = ((one + other) / 2 for one, other in zip(before, after, strict=True))
        share, processor_share = flops / seconds / rate, flops / processor_seconds / processor_rate
        rows.append((seconds, share, processor_share, rate))
    return Measured(*(statistics.median(column) for column in zip(*rows, strict=True)))


class Work(NamedTuple):
    """Something to be timed: `run` does `flops` FLOPs on `images` images."""

    model: str
    name: str
    images: int
    compiled: bool
    flops: int
    run: Callable[[], object]


def tabulate(works: Iterable[Work], *, yardstick: MatrixProduct, repetitions: int) -> Table:
    """Times one work after the other, each made when its turn comes, and freed before the next."""
    table = Table("model", "work", "images", "XLA", "images/s", "s", "share", "share, CPU time")
    rates = []
    for work in works:
        result = measure(work.run, flops=work.flops, yardstick=yardstick, repetitions=repetitions)
        rates.append(result.rate)
        table.add_row(
            work.model,
            work.name,
            str(work.images),
            "yes" if work.compiled else "no",
            f"{work.images / result.seconds:.2f}",
            f"{result.seconds:.3f}",
            f"{result.share:.0%}",
            f"{result.processor_share:.0%}",
        )
        click.echo(f"{work.model}, {work.name}: {result.share:.0%} ({result.processor_share:.0%})", err=True)
        keras.backend.clear_session()
    table.caption = (
        f"shares of a matrix product's rate, in the median {statistics.median(rates) / 1e9:.0f} GFLOP/s"
    )
    return table


def _time(work: Callable[[], object]) -> tuple[float, float]:
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor
