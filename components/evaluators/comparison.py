"""Scores of one set of images against another, in the features of a named network."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from components.evaluators import moments_file
from components.evaluators.features import inception_splits
from components.evaluators.image_sets import ImageSet, ImageSetError, has_images
from components.evaluators.protocols import FeatureProtocol
from components.metrics import frechet_samples, intervals
from components.metrics.frechet import frechet_distance
from components.metrics.inception import inception_score
from components.metrics.intervals import Interval
from components.metrics.kernel_distance import clip_mmd, kernel_distance
from components.metrics.manifold import manifold
from components.metrics.moments import Moments, moments

# Below, FID is biased upwards by more than models differ (Binkowski et al. 2018).
_ENOUGH = 10_000


class Reference(NamedTuple):
    """What samples are compared with.

    Attributes:
      moments: of its features.
      features: float32 [M, D]; None if only moments were stored.
      about: for the result: path, count, fingerprint.
    """

    moments: Moments
    features: np.ndarray | None
    about: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Scores and all that they depend on.

    Attributes:
      scores: by name; NaN where a set is too small.
      intervals: of some scores, at 95 %, over other samples of the same model.
      protocol: network, weights, resizing, dimensions, seeds.
      samples: path, count and fingerprint.
      reference: likewise.
      warnings: why a score may mislead, a line each.
    """

    scores: dict[str, float]
    intervals: dict[str, Interval]
    protocol: dict[str, Any]
    samples: dict[str, Any]
    reference: dict[str, Any]
    warnings: tuple[str, ...]


def read_reference(path: str, network: FeatureProtocol, image_size: int | None, batch_size: int) -> Reference:
    """Read a set of images, or the moments of one that `write_statistics` or another tool has written.

    Raises:
      ImageSetError: it cannot be read, or its moments are of another network.
    """
    stored = _stored(path)
    if not {"mu", "sigma"} <= stored.keys():
        read, _, about = _features(path, network, image_size, batch_size)
        return Reference(moments(read), read, about)
    about = json.loads(stored["about"].item()) if "about" in stored else {"path": os.path.basename(path)}
    known = about.pop("features", None)
    if known not in (None, [network.name, network.digest]):
        raise ImageSetError(
            f"{path} must have moments in {network.name} {network.digest}, got {' '.join(known)}"
        )
    mean, covariance = (np.asarray(stored[name], np.float64) for name in ("mu", "sigma"))
    if covariance.shape != (len(mean), len(mean)):
        shapes = f"{list(covariance.shape)} and {list(mean.shape)}"
        raise ImageSetError(f"sigma and mu of {path} must be [D, D] and [D], got {shapes}")
    features: np.ndarray | None = None
    if has_images(path):
        # ADM's: moments of the whole data set, and 10,000 of its images for precision and recall.
        features, _, images = _features(path, network, image_size, batch_size)
        about |= {"images": images["count"], "fingerprint": images["fingerprint"]}
    return Reference(Moments(int(about.get("count", 2)), mean, covariance), features, about)


def write_statistics(path: str, reference: Reference, network: FeatureProtocol) -> None:
    """Write moments as ADM's evaluator and pytorch-fid read them, and of what they are."""
    moments_file.write(path, reference.moments, (network.name, network.digest), reference.about)


def compare(
    samples: str,
    reference: Reference,
    network: FeatureProtocol,
    *,
    image_size: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Comparison:
    """Score a set of images.

    Args:
      samples: a folder or an .npz.
      reference: of the same network.
      network: whose features are compared.
      image_size: to which images are cropped and resized; as they are if None.
      batch_size: images in one call of the network.
      seed: of KID's subsets, and of those of FID-infinity and FID's interval.

    Raises:
      ImageSetError: a set cannot be read, or has another number of features.
    """
    features, probabilities, about = _features(samples, network, image_size, batch_size)
    if features.shape[1] != len(reference.moments.mean):
        raise ImageSetError(
            f"the reference must have {features.shape[1]} features, got {len(reference.moments.mean)}"
        )
    fid = frechet_distance(moments(features), reference.moments)
    scores = {"fid": fid}
    groups = frechet_samples.split(features, seed=seed)
    ranges = {"fid": frechet_samples.interval(groups, reference.moments, fid)}
    if line := frechet_samples.extrapolate(features, reference.moments, seed=seed):
        scores["fid_infinity"] = line.limit
    if reference.features is not None:
        kernel = kernel_distance(features, reference.features, seed=seed)
        scores |= {"kid": kernel.mean, "kid_std": kernel.deviation}
        if network.name.startswith("clip#"):
            scores["cmmd"] = clip_mmd(features, reference.features)
        shares = manifold(features, reference.features)._asdict()
        scores |= shares
        # Recall and coverage are shares of the reference: theirs would be over other real images.
        ranges["precision"] = intervals.of_share(shares["precision"], len(features))
    if probabilities.shape[1]:
        splits = inception_splits(len(features))
        scores["is"], scores["is_std"] = inception_score(probabilities, splits)
    protocol = {
        "features": network.name,
        "weights": network.digest,
        "resize": network.resize,
        "dimensions": features.shape[1],
        "image_size": image_size or "as it is",
        "seed": seed,
    }
    warnings = _warnings(len(features), reference, features.shape[1])
    return Comparison(scores, ranges, protocol, about, reference.about, warnings)


def _features(
    path: str, network: FeatureProtocol, image_size: int | None, batch_size: int
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    found = ImageSet(path, image_size)
    answers = [network.extract(batch) for batch in found.batches(batch_size)]
    about = {
        "path": os.path.basename(path.rstrip("/")),
        "count": found.count,
        "fingerprint": found.fingerprint,
    }
    features, probabilities = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    return features, probabilities, about


def _stored(path: str) -> dict[str, np.ndarray]:
    """Moments in a file, and what they are of; empty if it has none. Images stay unread."""
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in ("mu", "sigma", "about") if name in arrays}


def _warnings(count: int, reference: Reference, dimensions: int) -> tuple[str, ...]:
    found = []
    other = reference.about.get("count")
    if min(count, other or count) < dimensions:
        found.append(f"fewer images than the {dimensions} features: FID is far too high")
    elif count < _ENOUGH:
        found.append(f"{count} images: FID is biased upwards, compare it at equal counts only; KID is not")
    if other and other != count:
        found.append(f"{count} samples against {other} real images: published values have equal counts")
    return tuple(found)
