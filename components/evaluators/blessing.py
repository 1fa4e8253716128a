"""Comparison of metrics to thresholds: `evaluation.json`, and the blessing that Pusher reads."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from tfx.types import Artifact

from components.evaluators import files
from components.metrics import registry
from components.metrics.intervals import Interval
from serving.export.atomic import write_atomic

# What TFX's Evaluator writes, whose module imports all of TFX's components.
BLESSED, CURRENT_MODEL, CURRENT_MODEL_ID = "blessed", "current_model", "current_model_id"
BLESSED_FILE, NOT_BLESSED_FILE = "BLESSED", "NOT_BLESSED"

# Bounds of a metric: `min` and `max`, and `worse_by`, how much worse than the last pushed model it may be.
Thresholds = Mapping[str, Mapping[str, float | None]]
BOUNDS = ("min", "max", "worse_by")


class Pushed(NamedTuple):
    """The last pushed model, as this evaluator has measured it.

    Attributes:
      version: its folder's name; "" if none was pushed yet.
      metrics: its own, of the same images and by the same networks.
      problem: why it cannot be measured so; "" if it was.
    """

    version: str = ""
    metrics: Mapping[str, float] = {}
    problem: str = ""


def thresholds_to_json(thresholds: Thresholds | None, known: Collection[str]) -> str:
    """Encode thresholds as an execution property.

    Args:
      thresholds: metric -> {"min": bound, "max": bound, "worse_by": bound}, any of them absent or None.
      known: the evaluator's metrics.

    Raises:
      ValueError: an unknown metric or bound.
    """
    thresholds = thresholds or {}
    for metric, bounds in thresholds.items():
        if metric not in known:
            raise ValueError(f"thresholds must name one of {', '.join(sorted(known))}, got {metric!r}")
        if unknown := set(bounds) - set(BOUNDS):
            raise ValueError(
                f"thresholds.{metric} must have the bounds {', '.join(BOUNDS)}, got {min(unknown)!r}"
            )
        if bounds.get("worse_by") is not None and not registry.better_of(metric):
            raise ValueError(f"thresholds.{metric} must be min or max, got worse_by: neither way is better")
    return json.dumps(thresholds, sort_keys=True)


def compares(thresholds: Thresholds | None) -> bool:
    """Whether any threshold compares with the last pushed model."""
    return any(bounds.get("worse_by") is not None for bounds in (thresholds or {}).values())


def failed_thresholds(
    metrics: Mapping[str, float], thresholds: Thresholds, pushed: Pushed = Pushed()
) -> list[dict[str, Any]]:
    """Every reason not to bless: {"metric", "value", "bound", "limit", "reason"}.

    Without thresholds there is none. With any, a value that is not finite fails, and so does a threshold on a
    metric that was not measured because the data lack what it needs. Before a first push any model holds
    `worse_by`.
    """
    if not thresholds:
        return []
    failed = [
        _failure(metric, value, None, None, f"{metric} is not a finite number")
        for metric, value in metrics.items()
        if not math.isfinite(value)
    ]
    for metric, bounds in thresholds.items():
        for bound, limit in bounds.items():
            if limit is None:
                continue
            if metric not in metrics:
                needs = " and ".join(registry.needs_of(metric))
                reason = f"{metric} was not measured" + (f", it needs {needs}" if needs else "")
                failed.append(_failure(metric, math.nan, bound, limit, reason))
                continue
            value = metrics[metric]
            if bound == "worse_by":
                if reason := _regression(metric, value, limit, pushed):
                    failed.append(_failure(metric, value, bound, limit, reason))
                continue
            if value < limit if bound == "min" else value > limit:
                side = "below" if bound == "min" else "above"
                failed.append(
                    _failure(metric, value, bound, limit, f"{metric} {value:.4g} is {side} {limit:g}")
                )
    return failed


def write_evaluation(
    evaluation: Artifact,
    *,
    metrics: Mapping[str, Any],
    protocol: Mapping[str, Any],
    counts: Mapping[str, int],
    seconds: float,
    **more: Any,
) -> None:
    """Write `evaluation.json`, and every finite number to the metadata store as well."""
    for metric, value in metrics.items():
        if isinstance(value, int | float) and math.isfinite(value):
            evaluation.set_float_custom_property(metric, float(value))
    content = {"metrics": metrics, "protocol": protocol, "counts": counts, "seconds": seconds, **more}
    files.write_json(os.path.join(evaluation.uri, files.EVALUATION_FILE), content)


def judge(
    evaluation: Artifact,
    blessing: Artifact,
    model: Artifact,
    *,
    metrics: Mapping[str, float],
    thresholds: Thresholds,
    protocol: Mapping[str, Any],
    counts: Mapping[str, int],
    seconds: float,
    intervals: Mapping[str, Interval] | None = None,
    pushed: Pushed = Pushed(),
) -> None:
    """Write the evaluation with the reasons, and the blessing in Pusher's format, positive or negative."""
    failed = failed_thresholds(metrics, thresholds, pushed)
    compared = {"pushed": pushed._asdict()} if compares(thresholds) else {}
    write_evaluation(
        evaluation,
        metrics=metrics,
        protocol=protocol,
        counts=counts,
        seconds=seconds,
        intervals=intervals or {},
        thresholds=thresholds,
        blessed=not failed,
        failed_thresholds=failed,
        **compared,
    )
    blessing.set_int_custom_property(BLESSED, int(not failed))
    blessing.set_string_custom_property(CURRENT_MODEL, model.uri)
    blessing.set_int_custom_property(CURRENT_MODEL_ID, model.id)
    write_atomic(os.path.join(blessing.uri, NOT_BLESSED_FILE if failed else BLESSED_FILE), b"")


def _regression(metric: str, value: float, limit: float, pushed: Pushed) -> str:
    """Why a metric is too much worse than that of the pushed model; "" if it is not."""
    if pushed.problem:
        return f"{metric} cannot be compared with the pushed model {pushed.version}, {pushed.problem}"
    before = pushed.metrics.get(metric, math.nan)
    if not pushed.version or math.isnan(before):
        return ""
    worse = before - value if registry.better_of(metric) == "higher" else value - before
    if worse <= limit:
        return ""
    return (
        f"{metric} {value:.4g} is worse than {before:.4g} of the pushed model {pushed.version} by "
        f"{worse:.4g}, more than {limit:g}"
    )


def _failure(
    metric: str, value: float, bound: str | None, limit: float | None, reason: str
) -> dict[str, Any]:
    return {"metric": metric, "value": value, "bound": bound, "limit": limit, "reason": reason}
