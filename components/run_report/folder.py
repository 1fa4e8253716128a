"""The files of a report; the run's folder and the component's artifact hold the same ones.

`metrics.json`, `samples.png`, `reconstructions.png`; in `report/` the page `index.html` and all data
needed to render it again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from components.evaluators import files
from components.run_report import page, pictures
from components.run_report.report import Report
from serving.export.atomic import write_atomic
from serving.wire.errors import one_line

_ARRAYS = ("samples", "pairs")


class ReportError(ValueError):
    """Files of a report that are missing or damaged; the message is one line for the user."""


def write(folder: str, report: Report) -> None:
    """Write all files, each atomically; the page is the last."""
    inner = os.path.join(folder, "report")
    for name in _ARRAYS:
        files.write_arrays(os.path.join(inner, f"{name}.npz"), getattr(report, name))
    plain = {name: value for name, value in vars(report).items() if name not in _ARRAYS}
    files.write_json(os.path.join(inner, "report.json"), plain)
    files.write_json(os.path.join(folder, "metrics.json"), report.metrics)
    write_atomic(os.path.join(folder, "samples.png"), pictures.grid(report.sample_rows()))
    write_atomic(os.path.join(folder, "reconstructions.png"), pictures.grid(report.pair_rows()))
    write_atomic(os.path.join(inner, "index.html"), page.render(report))


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
        for name in _ARRAYS:
            path = os.path.join(inner, f"{name}.npz")
            arrays[name] = files.read_arrays(path)
        return Report(**{**plain, **arrays})
    # NumPy, zipfile and JSON raise many kinds.
    except Exception as error:
        raise ReportError(
            f"{path} must be a file of a report, got a damaged or missing one: {one_line(error)}"
        ) from error


def publish(artifact_uri: str, output_dir: str) -> None:
    """Write the report of an artifact into the run's folder."""
    write(output_dir, read(artifact_uri))


def add_components(output_dir: str, components: Sequence[Mapping[str, Any]]) -> None:
    """Add the components' times and states, known only after all have ended; render the page again.

    Args:
      output_dir: the run's folder, with a report in it.
      components: in order, each {"name", "seconds", "state"} and any further keys;
        `state` is `ran`, `cached` or `failed`.
    """
    report = read(output_dir)
    write(output_dir, replace(report, metrics={**report.metrics, "components": list(components)}))
