"""Time and memory of what an evaluation computes of features: `python -m benchmarks.evaluation`.

Rates are relative to a float64 product of NumPy's that is timed right before and after, since the speed of a
shared machine drifts. Memory is the peak above what the process held before, without the features themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from components.metrics import frechet_samples
from components.metrics.frechet import frechet_distance
from components.metrics.kernel_distance import kernel_distance
from components.metrics.manifold import manifold
from components.metrics.moments import Moments, MomentsFn
from tfx_pipeline import memory

# Rows of a batch, as evaluators pass them on.
BATCH = 64
# Of the product to compare with, and how often it is taken.
SIDE, PRODUCTS = 2048, 10


class Cost(NamedTuple):
    """Of one computation.

    Attributes:
      what: was computed.
      seconds: it took.
      flops: of its products; 0 where others take the time.
      share: of the product's FLOP/s, at the same time.
      peak: bytes above those before.
    """

    what: str
    seconds: float
    flops: float
    share: float
    peak: int


def _product_rate() -> float:
    """FLOP/s of a float64 product now, in the mean over `PRODUCTS`."""
    a = np.random.default_rng(0).normal(size=(SIDE, SIDE))
    a @ a
    started = time.perf_counter()
    for _ in range(PRODUCTS):
        a @ a
    return PRODUCTS * 2 * SIDE**3 / (time.perf_counter() - started)


def measure(what: str, compute: Callable[[], object], *, flops: float = 0.0) -> Cost:
    """Time one computation between two products."""
    before = _product_rate()
    memory.reset_peak()
    held = memory.peak()
    started = time.perf_counter()
    compute()
    seconds = time.perf_counter() - started
    peak = memory.peak() - held
    rate = (before + _product_rate()) / 2
    return Cost(what, seconds, flops, flops / seconds / rate, peak)


def moments_of(images: int, pool: np.ndarray) -> Moments:
    """Moments of so many rows, taken again and again from a pool [P, D], in batches."""
    fn = MomentsFn()
    accumulator = fn.create_accumulator()
    for start in range(0, images, BATCH):
        rows = pool[start % (len(pool) - BATCH) :][: min(BATCH, images - start)]
        accumulator = fn.add_input(accumulator, rows)
    return fn.extract_output(accumulator)


def costs(images: int, dimensions: int, neighbours_dimensions: int) -> Iterator[Cost]:
    """Every computation, at so many images of so many features."""
    draw = np.random.default_rng(1)
    pool = draw.normal(size=(4096, dimensions)).astype(np.float32)
    moments_of(2 * len(pool), pool)  # warm up
    yield measure(
        f"moments, {images:,} x {dimensions:,}",
        lambda: moments_of(images, pool),
        flops=2.0 * images * dimensions**2,
    )
    a, b = (moments_of(5 * dimensions, pool[part::2]) for part in range(2))
    yield measure(f"Frechet distance, {dimensions:,}", lambda: frechet_distance(a, b))
    groups = frechet_samples.split(pool, seed=0)
    yield measure("its interval, 10 groups", lambda: frechet_samples.interval(groups, a, 0.0))
    yield measure(
        f"KID, 100 subsets of 1,000 x {dimensions:,}",
        lambda: kernel_distance(pool[::2], pool[1::2]),
        flops=100 * 3 * 2.0 * 1000**2 * dimensions,
    )
    sets = draw.normal(size=(2, images, neighbours_dimensions)).astype(np.float32)
    yield measure(
        f"precision, recall, density, coverage, {images:,} and {images:,} x {neighbours_dimensions:,}",
        lambda: manifold(*sets),
        flops=3 * 2.0 * images**2 * neighbours_dimensions,
    )


@click.command()
@click.option("--images", default=50_000, show_default=True)
@click.option("--dimensions", default=2048, show_default=True, help="Features of an Inception's pool_3.")
@click.option(
    "--neighbours-dimensions",
    default=64,
    show_default=True,
    help="Features for precision and recall, whose time is that of the products from some hundred on.",
)
def main(images: int, dimensions: int, neighbours_dimensions: int) -> None:
    """Measure and print one table."""
    if not memory.reset_peak():
        raise click.ClickException("this system must let a process reset its peak of memory (Linux does)")
    table = Table("what", "seconds", "GFLOP/s", "of the product", "peak, MiB")
    for cost in costs(images, dimensions, neighbours_dimensions):
        rate = [f"{cost.flops / cost.seconds / 1e9:.1f}", f"{cost.share:.0%}"] if cost.flops else ["", ""]
        table.add_row(cost.what, f"{cost.seconds:.1f}", *rate, f"{cost.peak / 2**20:,.0f}")
        click.echo(f"{cost.what}: {cost.seconds:.1f} s", err=True)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
