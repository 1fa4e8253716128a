"""Comparison of metrics to thresholds: `evaluation.json`, and the blessing that Pusher reads."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from typing import Any

from tfx.types import Artifact

from components.evaluators import files
from components.metrics import registry
from serving.export.atomic import write_atomic

# What TFX's Evaluator writes, whose module imports all of TFX's components.
BLESSED, CURRENT_MODEL, CURRENT_MODEL_ID = "blessed", "current_model", "current_model_id"
BLESSED_FILE, NOT_BLESSED_FILE = "BLESSED", "NOT_BLESSED"

Thresholds = Mapping[str, Mapping[str, float | None]]


def thresholds_to_json(thresholds: Thresholds | None, known: Collection[str]) -> str:
    """Encode thresholds as an execution property.

    Args:
      thresholds: metric -> {"min": bound, "max": bound}, either one absent or None.
      known: the evaluator's metrics.

    Raises:
      ValueError: an unknown metric or bound.
    """
    thresholds = thresholds or {}
    for metric, bounds in thresholds.items():
        if metric not in known:
            raise ValueError(f"thresholds must name one of {', '.join(sorted(known))}, got {metric!r}")
        if unknown := set(bounds) - {"min", "max"}:
            raise ValueError(f"thresholds.{metric} must have the bounds min or max, got {min(unknown)!r}")
    return json.dumps(thresholds, sort_keys=True)


def failed_thresholds(metrics: Mapping[str, float], thresholds: Thresholds) -> list[dict[str, Any]]:
    """Every reason not to bless: {"metric", "value", "bound", "limit", "reason"}.

    Without thresholds there is none. With any, a value that is not finite fails, and so does a threshold on a
    metric that was not measured because the data lack what it needs.
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
                reason = f"{metric} was not measured" + (f", it needs images with {needs}" if needs else "")
                failed.append(_failure(metric, math.nan, bound, limit, reason))
                continue
            value = metrics[metric]
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
) -> None:
    """Write the evaluation with the reasons, and the blessing in Pusher's format, positive or negative."""
    failed = failed_thresholds(metrics, thresholds)
    write_evaluation(
        evaluation,
        metrics=metrics,
        protocol=protocol,
        counts=counts,
        seconds=seconds,
        thresholds=thresholds,
        blessed=not failed,
        failed_thresholds=failed,
    )
    blessing.set_int_custom_property(BLESSED, int(not failed))
    blessing.set_string_custom_property(CURRENT_MODEL, model.uri)
    blessing.set_int_custom_property(CURRENT_MODEL_ID, model.id)
    write_atomic(os.path.join(blessing.uri, NOT_BLESSED_FILE if failed else BLESSED_FILE), b"")


def _failure(
    metric: str, value: float, bound: str | None, limit: float | None, reason: str
) -> dict[str, Any]:
    return {"metric": metric, "value": value, "bound": bound, "limit": limit, "reason": reason}
