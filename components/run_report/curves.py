"""The charts of a page: what a run has measured over steps, blocks, codes and variants of sampling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from components.metrics import registry
from components.run_report import charts

# More points than this are not visible in a chart, and fewer keep the page small.
MAX_POINTS = 400
# Scores that a sweep is drawn for.
SWEPT = ("fid", "is", "class_accuracy", "precision", "recall", "kid")


def training(history: Sequence[Mapping[str, Any]]) -> tuple[list[charts.Lines], list[charts.Lines]]:
    """The charts of one stage: those always shown, and those of all other logged values."""
    names = list(dict.fromkeys(key for row in history for key in row if key != "step"))
    known = {name: one for name in names if (one := series(history, name)).steps}
    bases = list(dict.fromkeys(name.removeprefix("eval_") for name in known))
    main: list[charts.Lines] = []
    rest: list[charts.Lines] = []
    for base in bases:
        both = [known[name] for name in (base, f"eval_{base}") if name in known]
        percent = any(word in base for word in ("usage", "accuracy", "top1"))
        chart = charts.lines(base.replace("_", " "), both, percent=percent)
        shown = base in ("loss", "psnr", "codebook_perplexity") or percent
        (main if shown else rest).append(chart)
    return main, rest


def series(history: Sequence[Mapping[str, Any]], name: str, label: str = "") -> charts.Series:
    """A logged value over steps, where it is finite.

    Args:
      history: one dict per logged step.
      name: of the value.
      label: in the legend; by default whether it is of training or of held-out data.
    """
    points = [
        (row["step"], row[name])
        for row in history
        if isinstance(row.get(name), int | float) and math.isfinite(row[name])
    ]
    # Thinned evenly; the last value, which the legend quotes, always stays.
    stride = -(-len(points) // MAX_POINTS) or 1
    points = points[::-1][::stride][::-1]
    label = label or ("held-out" if name.startswith("eval_") else "train")
    return charts.Series(label, [step for step, _ in points], [value for _, value in points])


def probe(evaluation: Mapping[str, Any]) -> charts.Lines | None:
    """Accuracy over blocks, as in Figure 3."""
    if "by_block" not in evaluation:
        return None
    blocks = evaluation["by_block"]
    numbers = [row["block"] for row in blocks]
    return charts.lines(
        "Accuracy",
        [
            charts.Series(title, numbers, [row[name] for row in blocks])
            for name, title in (("top1", "Top-1"), ("top5", "Top-5"))
            if name in blocks[0]
        ],
        percent=True,
        over="blocks",
        marked=evaluation["best_block"],
    )


def codes(counts: np.ndarray) -> charts.Lines | None:
    """How often each code is used, as a share of all tokens, the most frequent first; None of no token.

    Codes that are not used are left out, so the curve ends with those that are.
    """
    used = np.sort(counts[counts > 0])[::-1]
    if not len(used):
        return None
    ranks = np.unique(np.linspace(1, len(used), min(len(used), MAX_POINTS)).round().astype(int))
    shares = used / used.sum()
    return charts.lines(
        "Share of tokens",
        [
            charts.Series("measured", ranks.tolist(), shares[ranks - 1].tolist()),
            charts.Series("if all codes were equal", [1, len(used)], [1.0 / len(counts)] * 2),
        ],
        over="codes, by frequency",
    )


def sweeps(variants: Sequence[Mapping[str, Any]]) -> list[charts.Lines]:
    """Scores over the values of a key of sampling, for every key that alone was varied over numbers.

    Variants of other counts of samples or in the features of another network have charts of their own.
    """
    groups: dict[tuple[str, int, str], list[Mapping[str, Any]]] = {}
    for one in variants:
        (key, value), *others = one["values"].items()
        if not others and isinstance(value, int | float):
            groups.setdefault((key, one["counts"]["samples"], network(one)), []).append(one)
    return [
        chart
        for (key, samples, features), rows in groups.items()
        for metric in registry.GENERATION
        if metric.name in SWEPT
        for chart in _swept(metric, key, f"{samples:,} samples, {features}", rows)
    ]


def network(variant: Mapping[str, Any]) -> str:
    """The network that a variant was scored with: others of the same name have other weights."""
    return f"{variant['protocol']['features']} {variant['protocol']['weights'][:6]}"


def _swept(
    metric: registry.Metric[Any], key: str, what: str, rows: Sequence[Mapping[str, Any]]
) -> Iterator[charts.Lines]:
    known = sorted(
        (row for row in rows if _finite(row["metrics"].get(metric.name))), key=lambda row: row["values"][key]
    )
    if len(known) < 2:
        return
    steps, values = zip(*((row["values"][key], row["metrics"][metric.name]) for row in known), strict=True)
    ends = [row["intervals"].get(metric.name) for row in known]
    sure = [pair for pair in ends if pair and all(map(_finite, pair))]
    yield charts.lines(
        f"{metric.title} over {key.replace('_', ' ')}",
        [charts.Series(what, steps, values, sure if len(sure) == len(known) else ())],
        percent=metric.unit == "%",
        over=key.replace("_", " "),
    )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
