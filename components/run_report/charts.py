"""Geometry of the page's charts; `charts.html` draws it as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib import ticker

WIDTH, HEIGHT = 440.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 12.0, 12.0, 26.0

# A loss that falls by more than this is read on a logarithmic scale.
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
    """A series as it is drawn."""

    name: str
    points: str  # of an SVG polyline
    last: str  # the last value, for the legend


class Lines(NamedTuple):
    """A chart of curves over training steps."""

    title: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve]


class Bar(NamedTuple):
    """A bar of a bar chart."""

    x: float
    y: float
    width: float
    height: float
    label: str
    value: str
    highlighted: bool


class Bars(NamedTuple):
    """A chart of one number in [0, 1] for each of a few things."""

    title: str
    y_ticks: list[Tick]
    bars: list[Bar]


def lines(title: str, series: Sequence[Series], *, percent: bool = False) -> Lines:
    """Lays out curves over a common step axis; `percent` shows values in [0, 1] as percentages."""
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
    return Lines(
        title,
        [
            Tick(x(tick), count(tick))
            for tick in ticker.MaxNLocator(5, integer=True).tick_values(min(steps), max(steps))
            if min(steps) <= tick <= max(steps)
        ],
        [Tick(y(scale(tick)), show(tick)) for tick in ticks],
        [
            Curve(
                one.name,
                " ".join(
                    f"{x(step):.1f},{y(scale(value)):.1f}"
                    for step, value in zip(one.steps, one.values, strict=True)
                ),
                show(one.values[-1]),
            )
            for one in series
        ],
    )


def bars(title: str, labels: Sequence[str], values: Sequence[float], highlighted: int) -> Bars:
    """Lays out one bar a value in [0, 1]; the one at `highlighted` stands out."""
    step = (WIDTH - LEFT - RIGHT) / len(values)
    y = _axis(0.0, 1.0, HEIGHT - BOTTOM, TOP + 8)
    return Bars(
        title,
        [Tick(y(tick), percentage(tick)) for tick in (0.0, 0.25, 0.5, 0.75, 1.0)],
        [
            Bar(
                x=LEFT + step * (index + 0.15),
                y=y(value),
                width=step * 0.7,
                height=y(0.0) - y(value),
                label=label,
                value=f"{100 * value:.0f}",
                highlighted=index == highlighted,
            )
            for index, (label, value) in enumerate(zip(labels, values, strict=True))
        ],
    )


def number(value: float) -> str:
    """Three digits that matter, without an exponent where it reads well: 0.0123, 4.5, 1,234."""
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percentage(value: float) -> str:
    """A share in [0, 1] as a percentage: 87 %, 99.5 %."""
    return f"{100 * value:.3g}\N{NO-BREAK SPACE}%"


def count(value: float) -> str:
    """A step or a count in few letters: 600, 1.5k, 2M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _axis(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    extent = (high - low) or 1.0
    return lambda value: start + (value - low) / extent * (end - start)
