"""Checks of classes and their images, before anything is trained on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from components.image_example_gen.splits import is_split_name

# What a run refuses unless `data.allow` names it.
Check = Literal["eval_only_classes", "empty_classes", "split_names", "anomalies"]
CHECKS: tuple[Check, ...] = get_args(Check)
# The label of an image without one.
UNLABELLED = -1
# Each label up to the largest takes a row of every classifier.
MAX_LABEL = 999_999
# More classes than this for each image are ids, not labels; each class takes a row of every classifier.
MAX_CLASSES_PER_IMAGE = 10
_SHOWN = 5

# split -> label -> number of images
Counts = Mapping[str, Mapping[int, int]]


class Judged(NamedTuple):
    """What the labels of a source are worth.

    Attributes:
      names: of the classes, from the source or its records; none if there are no two classes.
      problems: what is wrong with them, a line each.
      notes: what was decided about them, a line each.
    """

    names: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def judge(
    declared: tuple[str, ...], labels: Mapping[tuple[str, int, str], int], allow: Collection[str]
) -> Judged:
    """Judge the labels of a source.

    Args:
      declared: the names that the source itself has, or none.
      labels: number of images of each (split, label, name of the class).
      allow: as for `classes.problems`.
    """
    counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    seen: dict[int, str] = {}
    for (split, label, name), count in sorted(labels.items()):
        if seen.setdefault(label, name) != name:
            return Judged(problems=(f"label {label} must have one name, got {seen[label]} and {name}",))
        counts[split][label] += count
    unlabelled = sum(own.pop(UNLABELLED, 0) for own in counts.values())
    seen.pop(UNLABELLED, None)
    labelled = sum(sum(own.values()) for own in counts.values())
    if unlabelled and labelled:
        given = f"{labelled} with and {unlabelled} without"
        return Judged(problems=(f"images must have labels for all or for none, got {given}",))
    if len(seen) < 2:
        only = next((declared[label] if declared else seen[label] for label in seen), "")
        return Judged(notes=(f"the only class {only} is no class: images are unlabelled",) if only else ())
    most = max(seen, default=-1)
    if not declared and most >= MAX_CLASSES_PER_IMAGE * labelled:
        return Judged(problems=(f"labels must count from 0 without gaps, got {most} for {labelled} images",))
    names = declared or tuple(seen.get(label, str(label)) for label in range(most + 1))
    return Judged(names, tuple(problems(counts, names, declared=bool(declared), allow=allow)))


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
