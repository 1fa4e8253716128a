"""Labels of versions in a `--model_config_file`, moved by rewriting the file as a whole.

A server that follows the file sees the old labels or the new ones. The version that `stable` leaves is kept
as `previous`, so that one command goes back to it. All labelled versions are served, and no others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from google.protobuf import text_format

from serving.export.atomic import write_atomic
from serving.export.versions import versions
from serving.server import model_config
from serving.wire.errors import ServingError

STABLE, CANARY, PREVIOUS = "stable", "canary", "previous"


class Moved(NamedTuple):
    """A label that names another version than before.

    Attributes:
      label: its name.
      before: the version that it named; None for none.
      now: the version that it names.
    """

    label: str
    before: int | None
    now: int


def promote(path: str, model: str, label: str, version: int | None = None) -> Moved:
    """Let a label name a version.

    Args:
      path: the configuration file.
      model: whose.
      label: `STABLE` or `CANARY`.
      version: which; by default that of the canary for `STABLE`, the newest on disk for `CANARY`.

    Raises:
      ServingError: there is no such file, model or version.
    """

    def move(labels: dict[str, int], on_disk: list[int]) -> int:
        if label == CANARY and STABLE not in labels:
            # All labelled versions are served, and no others: the one that is served now would be given up.
            raise ServingError(
                f"{model} must have a label {STABLE} before a {CANARY}: promote with --version"
            )
        wanted = version
        if wanted is None and label == STABLE:
            if CANARY not in labels:
                raise ServingError(f"version must be given: {model} has no label {CANARY}")
            wanted = labels[CANARY]
        chosen = max(on_disk, default=-1) if wanted is None else wanted
        if chosen not in on_disk:
            known = ", ".join(map(str, on_disk)) or "none"
            raise ServingError(f"version of {model} must be one of {known}, got {chosen}")
        if label == STABLE and labels.get(STABLE, chosen) != chosen:
            labels[PREVIOUS] = labels[STABLE]
        labels[label] = chosen
        return chosen

    return _rewritten(path, model, label, move)


def rollback(path: str, model: str) -> Moved:
    """Let `STABLE` name the version that it named before.

    Raises:
      ServingError: there is no such file or model, or nothing was promoted.
    """

    def move(labels: dict[str, int], on_disk: list[int]) -> int:
        if PREVIOUS not in labels:
            known = ", ".join(sorted(labels)) or "none"
            raise ServingError(f"{model} must have a label {PREVIOUS} to go back to, got {known}")
        if labels[PREVIOUS] not in on_disk:
            raise ServingError(f"version {labels[PREVIOUS]} of {model} must be on disk, got {on_disk}")
        before = labels.pop(PREVIOUS)
        labels[STABLE] = before
        return before

    return _rewritten(path, model, STABLE, move)


def _rewritten(path: str, model: str, label: str, move: Callable[[dict[str, int], list[int]], int]) -> Moved:
    message = model_config.read_message(path)
    given = {one.name: one for one in message.model_config_list.config}
    if model not in given:
        known = ", ".join(sorted(given)) or "none"
        raise ServingError(f"model must be one of {known} in {path}, got {model!r}")
    config = given[model]
    labels = dict(config.version_labels)
    before = labels.get(label)
    now = move(labels, list(versions(config.base_path)))
    _write_labels(config, labels)
    model_config.of_message(message, path)
    # A link stays one: it may be the only file that a container mounts.
    write_atomic(os.path.realpath(path), text_format.MessageToString(message))
    return Moved(label, before, now)


def _write_labels(config: Any, labels: dict[str, int]) -> None:
    config.version_labels.clear()
    config.version_labels.update(labels)
    config.model_version_policy.specific.ClearField("versions")
    config.model_version_policy.specific.versions.extend(sorted(set(labels.values())))
