"""Checks of classes and their images, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, get_args

from components.image_example_gen.splits import is_split_name

# What a run refuses unless `data.allow` names it.
Check = Literal["eval_only_classes", "empty_classes", "split_names", "anomalies"]
CHECKS: tuple[Check, ...] = get_args(Check)
_SHOWN = 5

# split -> label -> number of images
Counts = Mapping[str, Mapping[int, int]]


def problems(
    counts: Counts, names: Sequence[str], *, declared: bool, allow: Collection[str] = ()
) -> list[str]:
    """What is wrong with the classes of a source, a line each.

    Args:
      counts: images of each split and label.
      names: the name of each label.
      declared: whether the data set itself names its classes, so that one of them may be empty.
      allow: checks that are left out.
    """
    train, held_out = counts.get("train", {}), counts.get("eval", {})
    found: list[tuple[Check, str]] = []
    if alone := [label for label in sorted(held_out) if not train.get(label)]:
        message = f"every class must have an image in the split train, got none of {_named(alone, names)}"
        found.append(("eval_only_classes", message))
    empty = [label for label in range(len(names)) if not train.get(label) and not held_out.get(label)]
    if empty and not declared:
        message = f"labels must count from 0 without gaps, got no image with {_named(empty, names)}"
        found.append(("empty_classes", message))
    if splits := [name for name in names if is_split_name(name)]:
        found.append(("split_names", f"classes must not be named like splits, got {_listed(splits)}"))
    return [f"{message}; data.allow=[{check}] lets it pass" for check, message in found if check not in allow]


def _named(labels: Sequence[int], names: Sequence[str]) -> str:
    return _listed(names[label] if names[label] != str(label) else f"label {label}" for label in labels)


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more
