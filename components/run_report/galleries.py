"""The pictures of a page, in labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from components.metrics import registry
from components.run_report import charts
from components.run_report.pictures import AMPLIFIED, Picture, difference, picture
from components.run_report.report import ROW, Report

TIMES = "\N{MULTIPLICATION SIGN}"


class Line(NamedTuple):
    """Pictures side by side.

    Attributes:
      label: on their left; "" for none.
      pictures: in order.
      ends: whether a gap follows.
    """

    label: str
    pictures: list[Picture]
    ends: bool = False


class Group(NamedTuple):
    """Lines under a title."""

    title: str
    lines: list[Line]


def samples(report: Report) -> list[Line]:
    """A line a class, or lines of eight without classes."""
    return [
        Line(label, [picture(image, _sample(label)) for image in images])
        for label, images in report.sample_rows()
    ]


def pairs(report: Report) -> list[Line]:
    """Held-out images in lines of eight, above their reconstructions and the differences."""
    lines: list[Line] = []
    for start in range(0, len(report.pairs["labels"]), ROW):
        rows = slice(start, start + ROW)
        lines += _compared(
            report.pairs["originals"][rows],
            report.pairs["reconstructions"][rows],
            _classes(report, report.pairs["labels"][rows]),
        )
    return lines


def ranked(report: Report) -> list[Group]:
    """The best, the median and the worst reconstructions of all held-out images; none of an older run."""
    held = report.ranked
    if not held:
        return []
    name = str(held["by"])
    metric = next(one for one in registry.RECONSTRUCTION if one.name == name)
    groups = []
    for number, title in enumerate(("Best", "Median", "Worst")):
        rows = held["groups"] == number
        values = [charts.score(value, metric.unit) for value in held["values"][rows].tolist()]
        classes = _classes(report, held["labels"][rows])
        lines = _compared(held["originals"][rows], held["reconstructions"][rows], classes, values)
        groups.append(Group(f"{title} {metric.title}", lines))
    return groups


def neighbours(report: Report) -> list[Line]:
    """Samples, each with the training images that are nearest to it; none of an older run."""
    held = report.neighbours
    if not held:
        return []
    lines = []
    for number, sample in enumerate(held["samples"]):
        own = held["of"] == number
        label = report.class_name(int(held["classes"][number])) if report.has_classes else ""
        pictures = [picture(sample, _sample(label), "sample")]
        for image, by, distance in zip(
            held["images"][own], held["by"][own].tolist(), held["distances"][own].tolist(), strict=True
        ):
            how = "by pixels" if by else "by features"
            note = f"{distance:.2f}" if by else f"{distance:.2f} {TIMES}"
            pictures.append(picture(image, f"training image that is near {how}", note))
        lines.append(Line(label, pictures))
    return lines


def _sample(label: str) -> str:
    return f"sample of class {label}" if label else "sample"


def _compared(
    originals: np.ndarray, reconstructions: np.ndarray, classes: Sequence[str], notes: Sequence[str] = ()
) -> list[Line]:
    told = list(notes) or [""] * len(originals)
    what = [f"held-out image{f' of class {name}' if name else ''}" for name in classes]
    apart = difference(originals, reconstructions)
    return [
        Line("original", [picture(image, one) for image, one in zip(originals, what, strict=True)]),
        Line(
            "decoded",
            [
                picture(image, f"reconstruction of a {one}{f', {note}' if note else ''}", note)
                for image, one, note in zip(reconstructions, what, told, strict=True)
            ],
        ),
        Line(
            f"error {TIMES} {AMPLIFIED}",
            [
                picture(image, f"difference of a {one} and its reconstruction")
                for image, one in zip(apart, what, strict=True)
            ],
            ends=True,
        ),
    ]


def _classes(report: Report, labels: np.ndarray) -> list[str]:
    return [report.class_name(label) for label in labels.tolist()]
