"""ModelValidator's executor: queries every signature of a SavedModel and blesses it if all checks pass.

First in this process, then of a server, which loads it with its warm-up, over both protocols.

A model that fails is not a pipeline error: the run continues to its report, and Pusher refuses the model.
Only infrastructure errors (storage, permissions, memory), which say nothing about the model, are raised.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf
from absl import logging
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.model_validator import answers, queries, wire
from serving.client.connect import connect
from serving.export.atomic import write_atomic
from serving.export.metadata import Metadata
from serving.export.signatures import read_metadata

# The format of TFX's InfraValidator, which Pusher reads.
BLESSED_PROPERTY = "blessed"
BLESSED_FILE = "INFRA_BLESSED"
NOT_BLESSED_FILE = "INFRA_NOT_BLESSED"

REASON_PROPERTY = "reason"
CHECKS_FILE = "checks.json"

# Errors of the machine, which say nothing about the model.
INFRASTRUCTURE_ERRORS = (
    MemoryError,
    PermissionError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.PermissionDeniedError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnauthenticatedError,
    tf.errors.UnavailableError,
)

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Check:
    """One check of a model: how long it took, and why it failed, if it did."""

    name: str
    milliseconds: float
    reason: str | None


class Executor(base_executor.BaseExecutor):
    """Executor of ModelValidator."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Validate the model and write `checks.json` and the blessing's file and properties."""
        self._log_startup(input_dict, output_dict, exec_properties)
        model = artifact_utils.get_single_instance(input_dict["model"])
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])

        checks = validate(path_utils.serving_model_path(model.uri))
        reasons = [f"{check.name}: {check.reason}" for check in checks if check.reason]
        write_atomic(
            os.path.join(blessing.uri, CHECKS_FILE),
            json.dumps(
                {"blessed": not reasons, "checks": [dataclasses.asdict(check) for check in checks]}, indent=1
            ),
        )
        if reasons:
            logging.warning("Model %s is not blessed: %s", model.uri, "; ".join(reasons))
            blessing.set_string_custom_property(REASON_PROPERTY, reasons[0])
        blessing.set_int_custom_property(BLESSED_PROPERTY, int(not reasons))
        write_atomic(os.path.join(blessing.uri, NOT_BLESSED_FILE if reasons else BLESSED_FILE), "")


def validate(path: str) -> list[Check]:
    """Check the SavedModel at `path`; return the checks in order.

    Stops early if a failure makes further checks impossible. Raises only `INFRASTRUCTURE_ERRORS`.
    """
    checks: list[Check] = []

    def ask(name: str, question: Callable[[], Result]) -> Result | None:
        start = time.perf_counter()
        result, reason = None, None
        try:
            result = question()
        except INFRASTRUCTURE_ERRORS:
            raise
        except Exception as error:  # any other error is a failure of the model
            reason = " ".join(str(error).split())[:500] or type(error).__name__
        checks.append(Check(name, round(1000 * (time.perf_counter() - start), 1), reason))
        return result

    model = ask("load", functools.partial(tf.saved_model.load, path))
    if model is None:
        return checks
    metadata = ask("metadata", functools.partial(_read_known_metadata, model))
    if metadata is None:
        return checks
    names = sorted({*answers.CONTRACT[metadata.kind], *model.signatures} - {"metadata"})
    asked = {name: ask(name, functools.partial(_query, model, name, metadata)) for name in names}
    known = {name: one for name, one in asked.items() if one}
    if len(known) < len(names):
        return checks
    with contextlib.ExitStack() as server:
        endpoints = ask("server", lambda: server.enter_context(wire.served(path)))
        for endpoint in endpoints or ():
            with connect(endpoint, timeout=wire.SECONDS) as client:
                for name, one in known.items():
                    protocol = endpoint.partition("://")[0]
                    ask(f"{name} over {protocol}", functools.partial(wire.check, client, name, *one))
    return checks


def _read_known_metadata(model: Any) -> Metadata:
    metadata = read_metadata(model)
    if metadata.kind not in answers.CONTRACT:
        raise ValueError(f"kind must be one of {sorted(answers.CONTRACT)}, got {metadata.kind!r}")
    return metadata


class _Asked(NamedTuple):
    """A question and its answer."""

    rows: Mapping[str, tf.Tensor]
    answer: Mapping[str, tf.Tensor]


def _query(model: Any, name: str, metadata: Metadata) -> _Asked:
    """Query one signature with a batch, and with the batch's last row alone; return the batch."""
    if name not in model.signatures:
        raise answers.WrongAnswerError(f"a {metadata.kind} must have this signature, got none")
    signature = model.signatures[name]
    rows = queries.rows(signature.structured_input_signature[1], metadata)
    together = signature(**rows)
    answers.check(name, together, queries.ROWS, metadata)
    alone = signature(**{argument: values[-1:] for argument, values in rows.items()})
    answers.check(name, alone, 1, metadata)
    if "seed" in rows:
        answers.check_same_draws(together, alone)
    return _Asked(rows, together)
