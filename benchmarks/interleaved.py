"""Speed as a share of what this machine does at the same moment.

On a machine that others use too, seconds say little: its speed drifts by a factor of two within minutes.
So a float32 matrix product is timed right before and right after each repetition of the work, and the
work's FLOPs a second are divided by the product's. The median over repetitions is what counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf


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


def _time(work: Callable[[], object]) -> tuple[float, float]:
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor
