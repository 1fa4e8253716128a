"""The report in a folder: the run's own, and the component's artifact, which hold the same files.

`metrics.json`, `samples.png`, `reconstructions.png`; under `report/` the page `index.html`, and
beside it all that it takes to draw it again.
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

_ARRAYS = ("samples", "pairs")


def write(folder: str, report: Report) -> None:
    """Writes all files, each whole; the page comes last."""
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
    """The report that `write` left in `folder`."""
    inner = os.path.join(folder, "report")
    plain = files.read_json(os.path.join(inner, "report.json"))
    arrays = {name: files.read_arrays(os.path.join(inner, f"{name}.npz")) for name in _ARRAYS}
    return Report(**{**plain, **arrays})


def publish(artifact_uri: str, output_dir: str) -> None:
    """Puts the report of an artifact into the run's folder."""
    write(output_dir, read(artifact_uri))


def add_components(output_dir: str, components: Sequence[Mapping[str, Any]]) -> None:
    """Adds what the components did, known only once they have all ended, and draws the page anew.

    Args:
      output_dir: the run's folder, with a report in it.
      components: in order, each {"name", "seconds", "state"} and whatever else is worth keeping;
        `state` is `ran`, `cached` or `failed`.
    """
    report = read(output_dir)
    write(output_dir, replace(report, metrics={**report.metrics, "components": list(components)}))
