"""The files of a report; the run's folder and the component's artifact hold the same ones.

`metrics.json`, `samples.png`, `reconstructions.png`; in `report/` the page `index.html` and all data
needed to render it again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tfx.dsl.io import fileio

from components.evaluators import files
from components.run_report import page, pictures
from components.run_report.report import Report
from serving.export.atomic import write_atomic
from serving.wire.errors import one_line

_ARRAYS = ("samples", "pairs")
# Those that reports of older versions do not have.
_LATER = ("ranked", "codes", "neighbours")


class ReportError(ValueError):
    """Files of a report that are missing or damaged; the message is one line for the user."""


def write(folder: str, report: Report) -> None:
    """Write all files, each atomically; the page is the last.

    A report that cannot be drawn changes no file.
    """
    html = page.render(report)
    inner = os.path.join(folder, "report")
    for name in (*_ARRAYS, *_LATER):
        if arrays := getattr(report, name):
            files.write_arrays(os.path.join(inner, f"{name}.npz"), arrays)
    plain = {name: value for name, value in vars(report).items() if name not in (*_ARRAYS, *_LATER)}
    files.write_json(os.path.join(inner, "report.json"), plain)
    files.write_json(os.path.join(folder, "metrics.json"), report.metrics)
    write_atomic(os.path.join(folder, "samples.png"), pictures.grid(report.sample_rows()))
    write_atomic(os.path.join(folder, "reconstructions.png"), pictures.grid(report.pair_rows()))
    write_atomic(os.path.join(inner, "index.html"), html)


def read(folder: str) -> Report:
    """Read the report that `write` wrote to `folder`.

    Raises:
      ReportError: a file is missing or damaged.
    """
    inner = os.path.join(folder, "report")
    path = ""
    try:
        path = os.path.join(inner, "report.json")
        plain = files.read_json(path)
        arrays = {}
        for name in (*_ARRAYS, *_LATER):
            path = os.path.join(inner, f"{name}.npz")
            if name in _ARRAYS or fileio.exists(path):
                arrays[name] = files.read_arrays(path)
        return Report(**{**plain, **arrays})
    # NumPy, zipfile and JSON raise many kinds.
    except Exception as error:
        raise ReportError(
            f"{path} must be a file of a report, got a damaged or missing one: {one_line(error)}"
        ) from error


def publish(artifact_uri: str, output_dir: str) -> None:
    """Write the report of an artifact into the run's folder; variants of the same samples' scores stay."""
    report = read(artifact_uri)
    before: Mapping[str, Any] = {}
    path = os.path.join(output_dir, "metrics.json")
    # A damaged one is replaced.
    with contextlib.suppress(ValueError):
        before = files.read_json(path) if fileio.exists(path) else {}
    if before.get("sweep") and before.get("generation") == report.metrics["generation"]:
        report = replace(report, metrics={**report.metrics, "sweep": before["sweep"]})
    write(output_dir, report)


def add_components(output_dir: str, components: Sequence[Mapping[str, Any]]) -> None:
    """Add the components' times and states, known only after all have ended; render the page again.

    Args:
      output_dir: the run's folder, with a report in it.
      components: in order, each {"name", "seconds", "state", "memory"} and any further keys;
        `state` is `ran`, `cached` or `failed`, `memory` the peak in bytes or None.
    """
    report = read(output_dir)
    write(output_dir, replace(report, metrics={**report.metrics, "components": list(components)}))


def add_variants(output_dir: str, scored: Mapping[str, Any], variants: Sequence[Mapping[str, Any]]) -> bool:
    """Add variants of sampling that were scored later, and render the page again.

    A variant of the same values and count takes the place of an earlier one.

    Args:
      output_dir: the run's folder, with a report in it.
      scored: the evaluation of the model's own samples (`generation` in `metrics.json`).
      variants: of that model, each {"values", "metrics", "intervals", "counts", "protocol"}, with a value.

    Returns:
      False, and nothing is changed, if the report has become that of another model.
    """
    report = read(output_dir)
    if report.metrics["generation"] != scored:
        return False
    known = {_variant(one): one for one in (*report.metrics.get("sweep", []), *variants)}
    write(output_dir, replace(report, metrics={**report.metrics, "sweep": list(known.values())}))
    return True


def _variant(one: Mapping[str, Any]) -> str:
    network = one["protocol"]["features"], one["protocol"]["weights"]
    return repr((sorted(one["values"].items()), one["counts"]["samples"], network))
