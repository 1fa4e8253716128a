"""Every metric, declared once: its name, how it is computed, its unit and direction, and what it needs.

Evaluators compute what is declared here; thresholds and the report know the same names, and
docs/evaluation.md lists them. docs/extending.md adds one step by step. Nothing here imports Beam or
TensorFlow, so that the configuration can check thresholds before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from components.metrics import pixels
from components.metrics.frechet import frechet_distance

if TYPE_CHECKING:
    from components.metrics.codebook import Usage
    from components.metrics.kernel_distance import KernelDistance
    from components.metrics.manifold import Manifold
    from components.metrics.moments import Moments

Array = NDArray[Any]
Need = Literal[
    "images with classes",
    "images with more than 5 classes",
    "a feature network with classes",
    "an LPIPS network",
    "more than 5 samples and training images",
    "random subsets of the images",
]
Statistics = TypeVar("Statistics")


class ReconstructedImages(NamedTuple):
    """B held-out images and their reconstructions, float32 [B, S, S, 3] each."""

    originals: Array  # in [0, 1]
    reconstructions: Array  # in [0, 1]
    mu: Array  # location of the decoder's logit-laplace density, in logits
    log_scale: Array  # its ln b
    lpips: Array  # [B], LPIPS of each pair; NaN without a network


class ReconstructionStatistics(NamedTuple):
    """Statistics of all held-out images."""

    usage: Usage
    originals: Moments  # of features
    reconstructions: Moments  # of features
    inception_scores: Sequence[float]  # of the reconstructions, one a split


class GenerationStatistics(NamedTuple):
    """Statistics of all samples and of the real images."""

    samples: Moments  # of features
    train: Moments  # of the train split's features
    matched: Moments  # of the features of the first samples
    held_out: Moments  # of the features of as many images of the eval split
    kernel: KernelDistance  # of features: the first samples against the first training images
    manifold: Manifold  # likewise, against as many training images
    memorization: float  # share of pairs in which a sample is nearer to training images than a held-out image
    recognized: Moments  # 1 where the classifier predicts the requested class
    inception_scores: Sequence[float]  # of the samples, one a split


class ProbeStatistics(NamedTuple):
    """Accuracies of the linear probe, one a block."""

    top1: Array
    top5: Array


@dataclass(frozen=True)
class Metric(Generic[Statistics]):
    """A metric.

    Attributes:
      name: its key in `metrics.json` and in thresholds.
      title: its name in the report.
      better: which direction is better; "" for neither.
      unit: "%" for a share in [0, 1], "dB", or "".
      note: one line for the report.
      per_image: computes [B] values, whose mean is the metric. Only for reconstructions.
      per_set: computes the metric from statistics of the whole set.
      needs: what the data must have; without it the metric is left out.
      deviation_of: the metric whose standard deviation over splits or subsets this is; the report shows it
        only if there is more than one.
    """

    name: str
    title: str
    better: Literal["higher", "lower", ""]
    unit: Literal["%", "dB", ""] = ""
    note: str = ""
    per_image: Callable[[ReconstructedImages], Array] | None = None
    per_set: Callable[[Statistics], float] | None = None
    needs: tuple[Need, ...] = ()
    deviation_of: str = ""

    def __post_init__(self) -> None:
        if (self.per_image is None) == (self.per_set is None):
            raise ValueError(f"metric {self.name} must have one of per_image and per_set")


RECONSTRUCTION: tuple[Metric[ReconstructionStatistics], ...] = (
    Metric(
        "psnr",
        "PSNR",
        "higher",
        "dB",
        note="of 8 bits",
        per_image=lambda b: pixels.psnr(b.originals, b.reconstructions),
    ),
    Metric(
        "ssim",
        "SSIM",
        "higher",
        note="structural similarity, of 8 bits",
        per_image=lambda b: pixels.ssim(b.originals, b.reconstructions),
    ),
    Metric(
        "lpips",
        "LPIPS",
        "lower",
        note="perceptual distance",
        per_image=lambda b: b.lpips,
        needs=("an LPIPS network",),
    ),
    Metric(
        "l1",
        "l1",
        "lower",
        note="mean absolute difference",
        per_image=lambda b: pixels.l1(b.originals, b.reconstructions),
    ),
    Metric(
        "l2",
        "l2",
        "lower",
        note="mean squared difference",
        per_image=lambda b: pixels.l2(b.originals, b.reconstructions),
    ),
    Metric(
        "logit_laplace",
        "Logit-laplace",
        "lower",
        note="nats a value, with the Jacobian",
        per_image=lambda b: pixels.logit_laplace(b.originals, b.mu, b.log_scale),
    ),
    Metric(
        "codebook_usage",
        "Codebook usage",
        "higher",
        "%",
        note="codes used by a batch of test images",
        per_set=lambda s: s.usage.usage,
    ),
    Metric(
        "codebook_used",
        "Codes used",
        "higher",
        "%",
        note="by all held-out images",
        per_set=lambda s: s.usage.used,
    ),
    Metric(
        "codebook_perplexity",
        "Codebook perplexity",
        "higher",
        note="exp of the entropy of the codes",
        per_set=lambda s: s.usage.perplexity,
    ),
    Metric(
        "fid",
        "FID",
        "lower",
        note="originals against reconstructions",
        per_set=lambda s: frechet_distance(s.originals, s.reconstructions),
    ),
    Metric(
        "is",
        "Inception score",
        "higher",
        note="at most the number of classes",
        per_set=lambda s: float(np.mean(s.inception_scores)),
        needs=("a feature network with classes",),
    ),
    Metric(
        "is_std",
        "Inception score, deviation",
        "",
        note="over splits",
        per_set=lambda s: float(np.std(s.inception_scores)),
        needs=("a feature network with classes",),
        deviation_of="is",
    ),
)

GENERATION: tuple[Metric[GenerationStatistics], ...] = (
    Metric(
        "fid",
        "FID",
        "lower",
        note="samples against the train split",
        per_set=lambda s: frechet_distance(s.samples, s.train),
    ),
    Metric(
        "fid_matched",
        "FID at equal counts",
        "lower",
        note="of as many samples as held-out images",
        per_set=lambda s: frechet_distance(s.matched, s.train),
    ),
    Metric(
        "fid_eval",
        "FID of real images",
        "",
        note="of as many held-out images: what real ones reach",
        per_set=lambda s: frechet_distance(s.held_out, s.train),
    ),
    Metric(
        "kid",
        "KID",
        "lower",
        note="unbiased, in units of the kernel",
        per_set=lambda s: s.kernel.mean,
    ),
    Metric(
        "kid_std",
        "KID, deviation",
        "",
        note="over random subsets",
        per_set=lambda s: s.kernel.deviation,
        needs=("random subsets of the images",),
        deviation_of="kid",
    ),
    Metric(
        "precision",
        "Precision",
        "higher",
        "%",
        note="samples in the neighbourhood of a training image",
        per_set=lambda s: s.manifold.precision,
        needs=("more than 5 samples and training images",),
    ),
    Metric(
        "recall",
        "Recall",
        "higher",
        "%",
        note="training images in the neighbourhood of a sample",
        per_set=lambda s: s.manifold.recall,
        needs=("more than 5 samples and training images",),
    ),
    Metric(
        "density",
        "Density",
        "",
        note="neighbourhoods of training images that a sample is in; real images have 1",
        per_set=lambda s: s.manifold.density,
        needs=("more than 5 samples and training images",),
    ),
    Metric(
        "coverage",
        "Coverage",
        "higher",
        "%",
        note="training images with a sample in their neighbourhood",
        per_set=lambda s: s.manifold.coverage,
        needs=("more than 5 samples and training images",),
    ),
    Metric(
        "memorization",
        "Nearer to training images",
        "",
        "%",
        note="samples than held-out images; 50 % if they are as new as these, more if copied",
        per_set=lambda s: s.memorization,
    ),
    Metric(
        "is",
        "Inception score",
        "higher",
        note="at most the number of classes",
        per_set=lambda s: float(np.mean(s.inception_scores)),
        needs=("a feature network with classes",),
    ),
    Metric(
        "is_std",
        "Inception score, deviation",
        "",
        note="over splits",
        per_set=lambda s: float(np.std(s.inception_scores)),
        needs=("a feature network with classes",),
        deviation_of="is",
    ),
    Metric(
        "class_accuracy",
        "Class accuracy",
        "higher",
        "%",
        note="samples that the classifier assigns to the requested class",
        per_set=lambda s: float(s.recognized.mean[0]),
        needs=("images with classes",),
    ),
)

LINEAR_PROBE: tuple[Metric[ProbeStatistics], ...] = (
    Metric(
        "top1",
        "Top-1",
        "higher",
        "%",
        note="at the best block",
        per_set=lambda s: float(s.top1.max()),
        needs=("images with classes",),
    ),
    Metric(
        "top5",
        "Top-5",
        "higher",
        "%",
        note="at the best block",
        per_set=lambda s: float(s.top5[s.top1.argmax()]),
        needs=("images with classes", "images with more than 5 classes"),
    ),
    Metric(
        "best_block",
        "Best block",
        "",
        note="counted from 1",
        per_set=lambda s: int(s.top1.argmax()) + 1,
        needs=("images with classes",),
    ),
)

_WITH_GATES: tuple[Metric[Any], ...] = (*RECONSTRUCTION, *GENERATION)

EVALUATORS: Mapping[str, tuple[Metric[Any], ...]] = {
    "reconstruction": RECONSTRUCTION,
    "generation": GENERATION,
    "linear_probe": LINEAR_PROBE,
}


def names(metrics: Sequence[Metric[Any]]) -> tuple[str, ...]:
    """The names of metrics, in order."""
    return tuple(metric.name for metric in metrics)


def needs_of(name: str) -> tuple[Need, ...]:
    """What a metric needs, empty for one that needs nothing or that is not declared."""
    return next((metric.needs for metric in _WITH_GATES if metric.name == name), ())


def better_of(name: str) -> Literal["higher", "lower", ""]:
    """Which direction of a metric is better; "" for neither and for one that is not declared."""
    return next((metric.better for metric in _WITH_GATES if metric.name == name), "")


def available_needs(classes: int, *, probabilities: bool = False, lpips: bool = False) -> frozenset[Need]:
    """What data with so many classes has, and networks with class probabilities and for LPIPS."""
    needs: list[Need] = ["a feature network with classes"] if probabilities else []
    if lpips:
        needs.append("an LPIPS network")
    if classes:
        needs.append("images with classes")
    if classes > 5:
        needs.append("images with more than 5 classes")
    return frozenset(needs)


def compute(
    metrics: Sequence[Metric[Statistics]], statistics: Statistics, available: Collection[Need]
) -> dict[str, float]:
    """Every metric of a set whose needs are met, by name; those computed per image are left out."""
    return {
        metric.name: metric.per_set(statistics)
        for metric in metrics
        if metric.per_set and set(metric.needs) <= set(available)
    }
