"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ROW = 8  # images side by side

Row = tuple[str, np.ndarray]  # label, images uint8 [K, S, S, 3]


@dataclass(frozen=True)
class Report:
    """All that the page and `metrics.json` are drawn from.

    Attributes:
      config: the run's configuration.
      dataset: what the Examples say of themselves (`dataset.json`).
      metrics: one object a component: `reconstruction`, `generation`, `linear_probe`, each with its
        scores, `protocol` and `counts`; and `components`, once they have all ended.
      histories: stage (`tokenizer`, `classifier`, `vim`) -> what training logged, a dict a step.
      samples: `images` uint8 [K, S, S, 3] and their `classes` int32 [K], ordered by class.
      pairs: `originals`, `reconstructions` uint8 [K, S, S, 3] and `labels` int64 [K].
    """

    config: Mapping[str, Any]
    dataset: Mapping[str, Any]
    metrics: Mapping[str, Any]
    histories: Mapping[str, Sequence[Mapping[str, float]]]
    samples: Mapping[str, np.ndarray]
    pairs: Mapping[str, np.ndarray]

    def sample_rows(self) -> list[Row]:
        """One row a class, named; without classes, rows of eight."""
        images, classes = self.samples["images"], self.samples["classes"]
        if self.metrics["generation"]["protocol"]["classes"] == "none":
            return [("", images[start : start + ROW]) for start in range(0, len(images), ROW)]
        names = self.dataset["class_names"]
        return [(names[class_id], images[classes == class_id]) for class_id in np.unique(classes)]

    def pair_rows(self) -> list[Row]:
        """Rows of eight originals, each above what the tokenizer gave back."""
        return [
            (label, self.pairs[name][start : start + ROW])
            for start in range(0, len(self.pairs["labels"]), ROW)
            for label, name in (("original", "originals"), ("decoded", "reconstructions"))
        ]
