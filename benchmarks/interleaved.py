"""Speed relative to a matrix product on the same machine at the same time.

On a shared machine seconds say little: its speed drifts by a factor of two within minutes. So a float32
matrix product is timed right before and right after each repetition of the work, and the work's FLOP/s are
divided by the product's. Results are medians over repetitions.
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
      seconds: wall-clock time of one repetition.
      share: FLOP/s divided by those of the matrix product, in wall-clock time.
      processor_share: the same in CPU time of all threads. It ignores cores that idle because the work
        is not parallel, and is not affected by other processes.
      rate: FLOP/s of the matrix product, in wall-clock time.
    """

    seconds: float
    share: float
    processor_share: float
    rate: float


class MatrixProduct:
    """The reference: a float32 product of two square matrices, 2 size^3 FLOPs."""

    def __init__(self, size: int = 2048):
        self.flops = 2 * size**3
        factors = [tf.random.stateless_uniform([size, size], seed=[0, index]) for index in range(2)]
        product = tf.function(tf.matmul)
        self._run = lambda: product(*factors).numpy()
        self._run()

    def rates(self) -> tuple[float, float]:
        """Return FLOP/s in wall-clock time and in CPU time."""
        seconds, processor_seconds = _time(self._run)
        return self.flops / seconds, self.flops / processor_seconds


def measure(
    work: Callable[[], object], *, flops: int, yardstick: MatrixProduct, repetitions: int
) -> Measured:
    """Time `work`, which computes `flops` FLOPs and blocks until done, after one call to warm up."""
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
    """A workload to time: `run` computes `flops` FLOPs on `images` images."""

    model: str
    name: str
    images: int
    compiled: bool
    flops: int
    run: Callable[[], object]


def tabulate(works: Iterable[Work], *, yardstick: MatrixProduct, repetitions: int) -> Table:
    """Time one work after the other; each is created in its turn and freed before the next."""
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
        f"share: FLOP/s relative to a matrix product's, median {statistics.median(rates) / 1e9:.0f} GFLOP/s"
    )
    return table


def _time(work: Callable[[], object]) -> tuple[float, float]:
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor
