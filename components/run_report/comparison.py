"""Runs beside each other: settings that differ, scores with their intervals, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from components.metrics import intervals, registry
from components.run_report import charts, curves, galleries
from components.run_report.galleries import Line
from components.run_report.page import EVALUATIONS, STAGES, template
from components.run_report.pictures import LOSSLESS_UP_TO, picture
from components.run_report.report import ROW, Report

# Shares of images, and the count that each is of.
_SHARES = {"class_accuracy": "samples", "top1": "eval_images", "top5": "eval_images"}
ROWS = 4
MISSING = "-"


class Row(NamedTuple):
    """A setting or a score, and its value in each run."""

    name: str
    values: tuple[str, ...]


def settings(reports: Sequence[Report]) -> list[Row]:
    """What differs between runs: configuration, data, code, versions."""
    flat = [dict(_flat({**_origin(report), **report.config})) for report in reports]
    names = list(dict.fromkeys(name for each in flat for name in each))
    lines = [Row(name, tuple(str(each.get(name, MISSING)) for each in flat)) for name in names]
    return [line for line in lines if len(set(line.values)) > 1]


def scores(reports: Sequence[Report]) -> list[Row]:
    """Every score of any run, with its 95 % interval or its standard deviation over splits if it has one."""
    return [
        Row(f"{title}: {metric.title}", values)
        for evaluator, title in EVALUATIONS.items()
        for metric in registry.EVALUATORS[evaluator]
        if not metric.deviation_of
        and set(values := tuple(_score(metric, report.metrics[evaluator]) for report in reports)) != {MISSING}
    ]


def text(names: Sequence[str], reports: Sequence[Report]) -> str:
    """Both tables in columns of fixed width."""
    parts = []
    for title, lines in (("settings that differ", settings(reports)), ("scores", scores(reports))):
        rows = [Row(title, tuple(names)), *(lines or [Row("none", tuple("" for _ in names))])]
        widths = [max(len(row.name) for row in rows), *(max(map(len, column)) for column in _columns(rows))]
        cells = ((row.name, *row.values) for row in rows)
        parts.append(
            "\n".join(
                "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
            )
        )
    return "\n\n".join(parts)


def page(names: Sequence[str], reports: Sequence[Report]) -> str:
    """One self-contained HTML page."""
    html = template("comparison.html").render(
        runs=[
            {
                "name": name,
                "samples": [Line("", [picture(image, f"sample of {name}") for image in _first(report)])],
                "pairs": galleries.pairs(report)[:3],
            }
            for name, report in zip(names, reports, strict=True)
        ],
        large=max(report.samples["images"].shape[1] for report in reports) > LOSSLESS_UP_TO,
        curves=_held_out_losses(names, reports),
        settings=settings(reports),
        scores=scores(reports),
        confidence=f"{intervals.CONFIDENCE:.0%}",
    )
    return html.lstrip()  # the macro at the start leaves an empty line


def _origin(report: Report) -> dict[str, Any]:
    """What a run comes from, besides its configuration."""
    known = ("data", "code", "versions")
    run = {f"run.{key}": value for key, value in report.metrics.get("run", {}).items() if key in known}
    return {"name": report.config["name"], **run}


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _score(metric: registry.Metric[Any], evaluation: Mapping[str, Any]) -> str:
    if metric.name not in evaluation:
        return MISSING
    value = evaluation[metric.name]
    shown = charts.score(value, metric.unit)
    interval = evaluation.get("intervals", {}).get(metric.name)
    # Of a run from before intervals were stored.
    count = evaluation.get("counts", {}).get(_SHARES.get(metric.name, ""))
    if interval is None and count and value is not None:
        interval = intervals.of_share(value, count)
    if value is not None and interval:
        return f"{shown} ({' to '.join(charts.score(end, metric.unit) for end in interval)})"
    deviation = evaluation.get(f"{metric.name}_std")
    return f"{shown} ± {charts.score(deviation, metric.unit)}" if deviation else shown


def _held_out_losses(names: Sequence[str], reports: Sequence[Report]) -> list[charts.Lines]:
    """The held-out loss of every stage that a run has trained, the runs over each other."""
    drawn = []
    for stage, title in STAGES.items():
        known = [
            curves.series(report.histories[stage], "eval_loss", name)
            for name, report in zip(names, reports, strict=True)
            if stage in report.histories
        ]
        if known := [one for one in known if one.steps]:
            drawn.append(charts.lines(title, known))
    return drawn


def _first(report: Report) -> Any:
    """Some samples, spread over all, which are in the order of their classes."""
    images = report.samples["images"]
    return images[:: max(1, len(images) // (ROW * ROWS))][: ROW * ROWS]


def _columns(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return list(zip(*(row.values for row in rows), strict=True))
