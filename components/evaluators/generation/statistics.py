"""What is computed of sampled and of real images, on workers, before anything is scored."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import numpy as np

from components.evaluators import moments_file, scores
from components.evaluators.generation import neighbours
from components.evaluators.generation.neighbours import Found, Queries
from components.evaluators.generation.samples import Samples
from components.metrics import frechet_samples, intervals, registry
from components.metrics.kernel_distance import SUBSET_SIZE, kernel_distance
from components.metrics.manifold import DENSITY_NEIGHBOURS, manifold
from components.metrics.moments import Moments, MomentsFn, merge
from components.sampled_set import SamplingPlan

# Images of each set whose features are kept, for kernel distance, precision and recall: the first ones.
SUBSET = 10_000


class FirstMoments(beam.PTransform):
    """Batches with `places` and `features` -> `Moments` of the features of the first `count` images."""

    def __init__(self, count: int):
        super().__init__()
        self._count = count

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        """Select, then combine."""
        first = batches | beam.FlatMap(neighbours.first, self._count)
        return first | beam.MapTuple(lambda _, vectors: vectors) | beam.CombineGlobally(MomentsFn())


class FirstFeatures(beam.PTransform):
    """Batches with `places` and `features` -> [(places, features)] of the first `count` images."""

    def __init__(self, count: int):
        super().__init__()
        self._count = count

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        """Select, then list."""
        return batches | beam.FlatMap(neighbours.first, self._count) | beam.combiners.ToList()


class SampleStatistics(beam.PTransform):
    """`Samples` -> what `score` needs of them, by name."""

    def __init__(self, plan: SamplingPlan, inception_splits: int, *, matched: int, subset: int):
        super().__init__()
        self._plan = plan
        self._splits = inception_splits
        self._matched = matched
        self._subset = subset

    def expand(self, samples: beam.PCollection) -> dict[str, beam.PCollection]:
        """Combine each."""
        order = np.random.default_rng(self._plan.params.seed).permutation(self._plan.samples)
        return {
            "groups": samples
            | beam.FlatMap(_by_group, order % frechet_samples.GROUPS)
            | beam.CombinePerKey(MomentsFn())
            | "ListGroups" >> beam.combiners.ToList(),
            "matched": samples | "First" >> FirstMoments(self._matched),
            "subset": samples | "Subset" >> FirstFeatures(self._subset),
            "recognized": samples | scores.Combine("recognized", MomentsFn()),
            "inception_scores": samples
            | beam.Map(_probabilities, self._plan.samples, self._splits)
            | scores.InceptionScores(),
        }


def score(
    needs: frozenset[registry.Need],
    part: str,
    seed: int,
    *,
    train: str,
    queries: Queries,
    found: Found,
    groups: list[tuple[int, Moments]],
    subset: list[tuple[np.ndarray, np.ndarray]],
    train_subset: list[tuple[np.ndarray, np.ndarray]],
    **statistics: Any,
) -> dict[str, Any]:
    """The metrics and their intervals, and beside them what the protocol needs.

    Args:
      needs: what data and networks have.
      part: the split of samples.
      seed: of the kernel distance's subsets.
      train: the file of the moments of the train split.
      queries: whose nearest training images were looked for.
      found: those.
      groups: moments of the features of random groups of samples, by number.
      subset: (places, features) of the first samples.
      train_subset: (places, features) of the first training images.
      **statistics: the other fields of `registry.GenerationStatistics`.
    """
    real_moments = moments_file.read(train)
    by_group = [one for _, one in sorted(groups, key=lambda item: item[0])]
    samples, features = merge(by_group), neighbours.in_order(subset)[0]
    real = neighbours.in_order(train_subset)[0]
    copied = neighbours.compare(found, queries, part)
    kernel, shares = kernel_distance(features, real, seed=seed), manifold(features, real[: len(features)])
    computed = registry.compute(
        registry.GENERATION,
        registry.GenerationStatistics(
            samples=samples,
            train=real_moments,
            kernel=kernel,
            manifold=shares,
            memorization=copied.share,
            **statistics,
        ),
        needs | _needs(len(features), len(real)),
    )
    found_intervals = {
        "fid": frechet_samples.interval(by_group, real_moments, computed["fid"]),
        "precision": intervals.of_share(shares.precision, len(features)),
        "memorization": copied.interval,
    }
    if "class_accuracy" in computed:
        found_intervals["class_accuracy"] = intervals.of_share(computed["class_accuracy"], samples.count)
    return {
        **computed,
        # None where there are too few images.
        "intervals": {name: ends for name, ends in found_intervals.items() if np.isfinite(ends).all()},
    }


def _needs(samples: int, real: int) -> frozenset[registry.Need]:
    """What the numbers of images allow beside a score of the whole sets."""
    needs: list[registry.Need] = []
    if min(samples, real) > DENSITY_NEIGHBOURS:
        needs.append("more than 5 samples and training images")
    if samples != real or samples > SUBSET_SIZE:
        needs.append("random subsets of the images")
    return frozenset(needs)


def _by_group(batch: Samples, group_of: np.ndarray) -> list[tuple[int, np.ndarray]]:
    groups = group_of[batch.places]
    return [(int(group), batch.features.features[groups == group]) for group in np.unique(groups)]


def _probabilities(batch: Samples, samples: int, splits: int) -> tuple[np.ndarray, np.ndarray]:
    # Neighbours share a split, so each split is balanced over the classes.
    return batch.places * splits // samples, batch.features.probabilities
