"""The data of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ROW = 8  # images side by side

Row = tuple[str, np.ndarray]  # label, images uint8 [K, S, S, 3]


@dataclass(frozen=True)
class Report:
    """All data of the page and of `metrics.json`.

    Attributes:
      config: the run's configuration.
      dataset: the Examples' `dataset.json`.
      metrics: one object per evaluator: `reconstruction`, `generation`, `linear_probe`, each with its
        scores, `protocol` and `counts`; `run`, what they come from: preset, date, fingerprints of data and
        code, versions, configuration; `warnings`, why a number must not be believed; `likelihood` of
        held-out tokens; and later `components`, after all have ended, and `sweep`, variants of sampling.
      histories: stage (`tokenizer`, `classifier`, `vim`) -> training log, one dict per logged step.
      samples: `images` uint8 [K, S, S, 3] and their `classes` int32 [K], ordered by class.
      pairs: `originals`, `reconstructions` uint8 [K, S, S, 3] and `labels` int64 [K].
      ranked: the same of the best, median and worst reconstructions, with `groups`, `values` and `by`
        (`components.evaluators.reconstruction.shown`); empty of an older run, as all below.
      codes: `counts` int64 [C], how often held-out images use each code.
      neighbours: samples and the training images that are nearest to them
        (`components.evaluators.generation.neighbours`).
      alarms: stage -> lines that warn of its training.
    """

    config: Mapping[str, Any]
    dataset: Mapping[str, Any]
    metrics: Mapping[str, Any]
    histories: Mapping[str, Sequence[Mapping[str, float]]]
    samples: Mapping[str, np.ndarray]
    pairs: Mapping[str, np.ndarray]
    alarms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ranked: Mapping[str, np.ndarray] = field(default_factory=dict)
    codes: Mapping[str, np.ndarray] = field(default_factory=dict)
    neighbours: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def has_classes(self) -> bool:
        """Whether samples were drawn of classes."""
        return self.metrics["generation"]["protocol"]["classes"] != "none"

    def class_name(self, label: int) -> str:
        """The name of a class; "" for an image without a label, or in data without classes."""
        names = self.dataset["class_names"]
        return names[label] if 0 <= label < len(names) else ""

    def sample_rows(self) -> list[Row]:
        """One labelled row per class; without classes, unlabelled rows of eight."""
        images, classes = self.samples["images"], self.samples["classes"]
        if not self.has_classes:
            return [("", images[start : start + ROW]) for start in range(0, len(images), ROW)]
        names = self.dataset["class_names"]
        return [(names[class_id], images[classes == class_id]) for class_id in np.unique(classes)]

    def pair_rows(self) -> list[Row]:
        """Rows of eight originals, each above a row of their reconstructions."""
        return [
            (label, self.pairs[name][start : start + ROW])
            for start in range(0, len(self.pairs["labels"]), ROW)
            for label, name in (("original", "originals"), ("decoded", "reconstructions"))
        ]
