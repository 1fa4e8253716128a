"""Why a number of a run must not be believed, in words: the first thing on its page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.metrics import intervals
from components.metrics.memorization import NULL

# Held-out images below which a score moves by more than models differ.
_ENOUGH_IMAGES = 1000
# Samples below which FID is biased by more than models differ (Binkowski et al. 2018).
_ENOUGH_SAMPLES = 10_000
# Of the codebook.
_FEW_CODES = 0.5
# Above its lowest value, a held-out loss that rises and is no noise.
_RISEN = 1.02
_MODELS = {"tokenizer": "the tokenizer", "classifier": "the classifier", "vim": "the image model"}
_SECTIONS = {"tokenizer": "stage1", "classifier": "classifier", "vim": "stage2"}

Evaluation = Mapping[str, Any]


def find(
    metrics: Mapping[str, Evaluation],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    config: Mapping[str, Any],
    alarms: Mapping[str, Sequence[str]],
) -> list[str]:
    """Find what a reader should know first, a line each.

    Args:
      metrics: the evaluations, by name.
      histories: stage -> training log, one dict per logged step.
      config: the run's configuration.
      alarms: stage -> lines that its training has reported.
    """
    return [
        *_recognizer(metrics["generation"]),
        *_counts(metrics["generation"]),
        *_codebook(metrics["reconstruction"]),
        *_memorization(metrics["generation"]),
        *_probe(metrics["linear_probe"]),
        *(f"In training {_MODELS[stage]}: {line}" for stage, lines in alarms.items() for line in lines),
        *(line for stage, history in histories.items() for line in _overfitted(stage, history, config)),
    ]


def _recognizer(generation: Evaluation) -> Iterator[str]:
    protocol = generation["protocol"]
    recognizer = protocol.get("recognizer", {})
    own = protocol["features"] == recognizer.get("network")  # not a classifier of another run
    if recognizer.get("classes") == "rotations" and own:
        yield (
            "FID is in the features of a network that tells rotations apart, as the images have no labels: "
            "it compares within this run alone."
        )
    accuracy = recognizer.get("held_out_accuracy")
    if accuracy is None or math.isnan(accuracy):
        return
    classes, images = recognizer["classes"], generation["counts"]["eval_images"]
    if _is_chance(accuracy, classes, images):
        yield (
            f"The classifier recognizes {accuracy:.1%} of held-out images, and guessing {1 / classes:.1%}: "
            + ("class accuracy, FID and the Inception Score say" if own else "class accuracy says")
            + " nothing."
        )
    elif accuracy < (1.0 + 1.0 / classes) / 2.0:
        yield (
            f"The classifier recognizes only {accuracy:.1%} of held-out images: "
            + ("class accuracy, FID and the Inception Score are" if own else "class accuracy is")
            + " rough."
        )


def _counts(generation: Evaluation) -> Iterator[str]:
    counts, dimensions = generation["counts"], generation["protocol"].get("dimensions", 0)
    images, samples = counts["eval_images"], counts["samples"]
    if images < _ENOUGH_IMAGES:
        yield f"{images:,} held-out images are few: mind the intervals."
    few = [
        f"{n:,} {what}"
        for n, what in ((samples, "samples"), (counts["train_images"], "training images"))
        if n <= dimensions
    ]
    if few:
        listed = " and ".join(few)
        yield f"FID is far too high: {listed} are fewer than its {dimensions:,} features or as many."
    elif samples < _ENOUGH_SAMPLES:
        yield f"FID of {samples:,} samples is biased upwards: compare it at equal counts only."


def _memorization(generation: Evaluation) -> Iterator[str]:
    low, _ = generation.get("intervals", {}).get("memorization") or (None, None)
    if low is not None and low > NULL:
        yield (
            f"In {generation['memorization']:.1%} of all pairs a sample is nearer to a training image than a "
            "held-out image is: samples are copies, or smoother than real images; look at their neighbours."
        )


def _codebook(reconstruction: Evaluation) -> Iterator[str]:
    usage = reconstruction["codebook_usage"]
    if usage is not None and usage < _FEW_CODES:
        yield f"A batch of test images uses only {usage:.1%} of the codes: a smaller codebook may do as well."


def _probe(probe: Evaluation) -> Iterator[str]:
    if "top1" not in probe:
        return
    classes, images = probe["classes"], probe["counts"]["eval_images"]
    if _is_chance(probe["top1"], classes, images):
        yield f"The linear probe, {probe['top1']:.1%}, is within the noise of guessing, {1 / classes:.1%}."


def _overfitted(stage: str, history: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Iterator[str]:
    if config[_SECTIONS[stage]].get("train", {}).get("export") == "best":
        return  # the weights of the lowest loss
    held_out = [(row["step"], row["eval_loss"]) for row in history if _finite(row.get("eval_loss"))]
    trained = [row["loss"] for row in history if _finite(row.get("loss"))]
    if len(held_out) < 2:
        return
    step, lowest = min(held_out, key=lambda point: point[1])
    last = held_out[-1][1]
    if lowest > 0 and last > _RISEN * lowest and trained[-1] < lowest:
        section = _SECTIONS[stage]
        yield (
            f"The held-out loss of {_MODELS[stage]} has risen from {lowest:.4g} at step {step:,} to "
            f"{last:.4g}, above that of training, {trained[-1]:.4g}: {section}.train.export=best keeps the "
            "weights of then."
        )


def _is_chance(accuracy: float, classes: int, images: int) -> bool:
    """Whether guessing may well be as good on so many images."""
    return intervals.of_share(accuracy, images)[0] <= 1.0 / classes


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
