"""Geometry of the page's charts; `charts.html` draws it as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib import ticker

WIDTH, HEIGHT = 440.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 12.0, 12.0, 26.0

# Curves whose maximum is more than this times their minimum get a logarithmic axis.
LOGARITHMIC_ABOVE = 20.0


class Series(NamedTuple):
    """A curve: values over steps, of equal length, in order, all finite."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


class Tick(NamedTuple):
    """A mark on an axis."""

    at: float
    label: str


class Curve(NamedTuple):
    """A series in the coordinates of the chart."""

    name: str
    points: str  # of an SVG polyline
    quoted: str  # the value in the legend
    mark: tuple[float, float] | None  # the position of a dot


class Lines(NamedTuple):
    """A chart of curves over a common axis."""

    title: str
    over: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve]


def lines(
    title: str,
    series: Sequence[Series],
    *,
    percent: bool = False,
    over: str = "training steps",
    marked: float | None = None,
) -> Lines:
    """Lay out curves over a common axis.

    Args:
      title: of the chart.
      series: at least one, each with at least one value.
      percent: show values in [0, 1] as percentages, on an axis from 0 to 100 %.
      over: what the steps count.
      marked: the step at which every series gets a dot and whose value the legend shows; None shows the
        last value and marks nothing.
    """
    values = [value for one in series for value in one.values]
    steps = [step for one in series for step in one.steps]
    low, high = min(values), max(values)
    logarithmic = not percent and low > 0 and high / low > LOGARITHMIC_ABOVE
    if percent:
        low, high = 0.0, 1.0
    locator = ticker.LogLocator(subs=(1.0, 3.0)) if logarithmic else ticker.MaxNLocator(5)
    ticks = [float(tick) for tick in locator.tick_values(low, high)]
    if logarithmic:
        ticks = [tick for tick in ticks if low <= tick <= high] or [low, high]
    else:
        low, high = min(low, ticks[0]), max(high, ticks[-1])
    scale: Callable[[float], float] = math.log if logarithmic else float
    x = _axis(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    y = _axis(scale(low), scale(high), HEIGHT - BOTTOM, TOP)
    show = percentage if percent else number

    def curve(one: Series) -> Curve:
        at = len(one.steps) - 1 if marked is None else list(one.steps).index(marked)
        points = [(x(step), y(scale(value))) for step, value in zip(one.steps, one.values, strict=True)]
        return Curve(
            one.name,
            " ".join(f"{left:.1f},{top:.1f}" for left, top in points),
            show(one.values[at]),
            None if marked is None else points[at],
        )

    return Lines(
        title,
        over,
        [
            Tick(x(tick), count(tick))
            for tick in ticker.MaxNLocator(5, integer=True).tick_values(min(steps), max(steps))
            if min(steps) <= tick <= max(steps)
        ],
        [Tick(y(scale(tick)), show(tick)) for tick in ticks],
        [curve(one) for one in series],
    )


def number(value: float) -> str:
    """Format with three significant digits, without an exponent for common sizes: 0.0123, 4.5, 1,234."""
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percentage(value: float) -> str:
    """Format a fraction in [0, 1] as a percentage: 87 %, 99.5 %."""
    return f"{100 * value:.3g}\N{NO-BREAK SPACE}%"


def count(value: float) -> str:
    """Format a step or a count with a unit prefix: 600, 1.5k, 2M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _axis(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    extent = (high - low) or 1.0
    return lambda value: start + (value - low) / extent * (end - start)
