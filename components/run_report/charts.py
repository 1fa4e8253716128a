"""Geometry of the page's charts; `charts.html` draws it as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib import ticker

# About as many as a chart is wide, so that its text has the size it says.
WIDTH, HEIGHT = 340.0, 180.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 12.0, 12.0, 26.0

# Curves whose maximum is more than this times their minimum get a logarithmic axis.
LOGARITHMIC_ABOVE = 20.0


class Series(NamedTuple):
    """A curve: values over steps, of equal length, in order, all finite.

    Attributes:
      name: in the legend.
      steps: where.
      values: what.
      intervals: (low, high) around each value; () for none.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    intervals: Sequence[tuple[float, float]] = ()


class Tick(NamedTuple):
    """A mark on an axis."""

    at: float
    label: str


class Curve(NamedTuple):
    """A series in the coordinates of the chart.

    Attributes:
      name: in the legend.
      points: of an SVG polyline.
      quoted: the value in the legend.
      steps: of the points, as text, apart by a blank.
      values: likewise.
      band: the points of a polygon around the curve; "" for none.
      mark: the position of a dot.
    """

    name: str
    points: str
    quoted: str
    steps: str
    values: str
    band: str
    mark: tuple[float, float] | None


class Lines(NamedTuple):
    """A chart of curves over a common axis.

    Attributes:
      title: of the chart.
      over: what the steps count.
      x_ticks: of the lower axis.
      y_ticks: of the left one.
      curves: at least one.
      width: of the drawing, as `height`, `left` and `right`.
    """

    title: str
    over: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve]
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT

    @property
    def seen(self) -> str:
        """What the chart shows, for those who do not see it."""
        ends = (
            f"{curve.name} from {curve.values.split(' ')[0]} to {curve.values.split(' ')[-1]}"
            for curve in self.curves
        )
        return f"{self.title} over {self.over}: {', '.join(ends)}"


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
    steps = [step for one in series for step in one.steps]
    low, high = _range(series)
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
        # There and back; below a logarithmic axis nothing is drawn.
        ends = [[y(scale(max(end, low))) for end in side] for side in zip(*one.intervals, strict=True)]
        around = [(x(step), end) for side in ends for step, end in zip(one.steps, side, strict=True)]
        half = len(one.steps)
        return Curve(
            one.name,
            _points(points),
            show(one.values[at]),
            " ".join(_step(step) for step in one.steps),
            " ".join(show(value) for value in one.values),
            _points(around[:half] + around[half:][::-1]),
            None if marked is None else points[at],
        )

    slack = 1e-9 * (max(steps) - min(steps))
    whole = all(float(step).is_integer() for step in steps)
    return Lines(
        title,
        over,
        [
            Tick(x(tick), count(tick))
            for tick in ticker.MaxNLocator(5, integer=whole).tick_values(min(steps), max(steps))
            # Some ticks are off their place by rounding.
            if min(steps) - slack <= tick <= max(steps) + slack
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


def score(value: float | None, unit: str = "") -> str:
    """Format a score of this unit."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if unit == "%":
        return percentage(value)
    return f"{value:.1f} {unit}" if unit else number(value)


def count(value: float) -> str:
    """Format a step or a count with a unit prefix: 600, 1.5k, 2M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _step(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def _range(series: Sequence[Series]) -> tuple[float, float]:
    """Between what all values lie, with their intervals where these do not go below 0 first."""
    values = [value for one in series for value in one.values]
    ends = [end for one in series for ends in one.intervals for end in ends if end > 0 or min(values) <= 0]
    return min(values + ends), max(values + ends)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{left:.1f},{top:.1f}" for left, top in points)


def _axis(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    extent = (high - low) or 1.0
    return lambda value: start + (value - low) / extent * (end - start)
