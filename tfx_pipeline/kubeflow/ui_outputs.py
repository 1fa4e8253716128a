"""Outputs for people: what the Pipelines UI draws beside a run, scores as a table and the report as a page.

It draws only artifacts of Kubeflow's own types. So the compiler adds these outputs to the components', and
the entry point fills them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from components.evaluators import files
from serving.export.atomic import copy_file, make_folder
from tfx_pipeline.kubeflow.task import METRICS, PAGE

# The executor's output that each is made of.
_SOURCES = {METRICS: "evaluation", PAGE: "report"}


def added_to(outputs: Sequence[str]) -> dict[str, str]:
    """The outputs for people of a component with these outputs: name and type."""
    names = {METRICS: "metrics", PAGE: "page"}
    return {names[kind]: kind for kind, source in _SOURCES.items() if source in outputs}


def is_for_ui(kind: str) -> bool:
    """Whether an output of this type is for people, and not the executor's."""
    return kind in _SOURCES


def write(kind: str, path: str, outputs: Mapping[str, Sequence[Any]]) -> dict[str, str | float]:
    """Write an output for people, and return its metadata; the table of scores is all metadata.

    Args:
      kind: its type.
      path: where the launcher takes it from.
      outputs: the executor's, which have been written.
    """
    source = outputs[_SOURCES[kind]][0].uri
    if kind == METRICS:
        make_folder(path)  # releases after 2.18 refuse a declared output that is not there
        scores = files.read_json(os.path.join(source, files.EVALUATION_FILE))["metrics"]
        # Releases after 2.18 take numbers only; JSON has none that are not finite.
        return {name: float(value) for name, value in scores.items() if _is_number(value)}
    make_folder(os.path.dirname(path))
    copy_file(os.path.join(source, "report", "index.html"), path)
    return {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
