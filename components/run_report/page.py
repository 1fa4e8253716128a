"""The report's HTML page: the main results, readable in ten seconds, first; everything else below."""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml

from components.evaluators import files
from components.metrics import registry
from components.metrics.memorization import NULL
from components.run_report import charts, curves, galleries, pictures
from components.run_report.report import Report

STAGES = {
    "tokenizer": "Tokenizer (ViT-VQGAN)",
    "classifier": "Classifier (ResNet)",
    "vim": "Image model (VIM)",
}
EVALUATIONS = {
    "reconstruction": "Reconstruction",
    "generation": "Generation",
    "linear_probe": "Linear probe",
}


def render(report: Report) -> str:
    """Render the whole page as one self-contained HTML file."""
    components = report.metrics.get("components", [])
    html = template("report.html").render(
        config=report.config,
        dataset=report.dataset,
        verdicts=list(_verdicts(report.metrics)),
        warnings=report.metrics.get("warnings", []),
        headline=list(_headline(report.metrics)),
        large=report.samples["images"].shape[1] > pictures.LOSSLESS_UP_TO,
        samples=galleries.samples(report),
        samples_note=_samples_note(report),
        ranked=galleries.ranked(report),
        pairs=galleries.pairs(report),
        neighbours=galleries.neighbours(report),
        memorization=_memorization(report.metrics["generation"]),
        codes=curves.codes(report.codes["counts"]) if report.codes else None,
        codes_note=_codes_note(report),
        stages=[
            (STAGES.get(stage, stage), report.alarms.get(stage, []), *curves.training(history))
            for stage, history in report.histories.items()
        ],
        likelihood=report.metrics.get("likelihood"),
        sweeps=curves.sweeps(report.metrics.get("sweep", [])),
        variants=report.metrics.get("sweep", []),
        network=curves.network,
        swept=_swept(report.metrics.get("sweep", [])),
        probe=curves.probe(report.metrics["linear_probe"]),
        probe_warnings=report.metrics["linear_probe"].get("warnings", []),
        evaluations=[
            (title, report.metrics[name], list(_rows(name, report.metrics[name])))
            for name, title in EVALUATIONS.items()
        ],
        components=components,
        longest=max((component["seconds"] for component in components), default=0) or 1,
        memory=any(component.get("memory") for component in components),
        cached=sum(component["state"] == "cached" for component in components),
        total=sum(component["seconds"] for component in components if component["state"] != "cached"),
        configuration=yaml.safe_dump(dict(report.config), sort_keys=False),
        origin={
            name: value for name, value in report.metrics.get("run", {}).items() if name != "configuration"
        },
        metrics_json=base64.b64encode(files.to_json(report.metrics).encode()).decode(),
    )
    return html.lstrip()  # the macros at the start leave empty lines


def duration(seconds: float) -> str:
    """Format a duration: 3.4 s, 35 s, 4 min 05 s, 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@functools.cache
def template(name: str) -> jinja2.Template:
    """A page of this folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(duration=duration, plain=_plain, score=charts.score)
    return environment.get_template(name)


def _plain(value: Any) -> Any:
    """A setting or a measured fact, without digits that say nothing."""
    return f"{value:.4g}" if isinstance(value, float) else value


def _verdicts(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for model, name in (("Tokenizer", "reconstruction"), ("Image model", "generation")):
        evaluation = metrics[name]
        thresholds = len(evaluation["thresholds"])
        passed = f"{thresholds} of {thresholds} thresholds met" if thresholds else "no threshold was set"
        yield {
            "model": model,
            "blessed": evaluation["blessed"],
            "reasons": [failure["reason"] for failure in evaluation["failed_thresholds"]] or [passed],
        }


def _headline(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(title, value, explanation) of the few numbers at the top."""
    reconstruction, generation, probe = (metrics[name] for name in EVALUATIONS)
    images = reconstruction["counts"]["images"]
    yield "Reconstruction", charts.score(reconstruction["psnr"], "dB"), f"PSNR of {images:,} held-out images"
    perplexity = charts.score(reconstruction["codebook_perplexity"])
    batch = reconstruction["protocol"]["usage_batch"]
    usage = charts.score(reconstruction["codebook_usage"], "%")
    yield "Codebook in use", usage, f"by {batch} images; perplexity {perplexity}"
    if "class_accuracy" in generation:
        accuracy = charts.score(generation["class_accuracy"], "%")
        counts = generation["counts"]
        kept = f" kept of {counts['candidates']:,}" if _rejects(generation) else ""
        yield "Recognized", accuracy, f"of {counts['samples']:,} samples{kept}, by the classifier"
    real = f"real images have {charts.score(generation['fid_eval'])}"
    if "fid_matched" in generation:
        matched, real = charts.score(generation["fid_matched"]), charts.score(generation["fid_eval"])
        real = f"of {generation['counts']['matched']:,}: {matched}; as many real ones {real}"
    yield "FID of samples", charts.score(generation["fid"]), real
    if "top1" in probe:
        blocks = len(probe["by_block"])
        yield (
            "Linear probe",
            charts.score(probe["top1"], "%"),
            f"top-1 at block {probe['best_block']} of {blocks}",
        )


def _rejects(generation: Mapping[str, Any]) -> bool:
    return generation["protocol"]["acceptance"] < 1


def _samples_note(report: Report) -> str:
    generation = report.metrics["generation"]
    if not _rejects(generation):
        first = "the first of each class" if report.has_classes else "the first ones, of no class"
        return f"Sampled from the image model, not selected: {first}."
    counts = generation["counts"]
    return (
        f"Sampled from the image model and selected by the classifier: of {counts['candidates']:,} it kept "
        f"the {counts['samples']:,} with the highest probability of their class. The first of each class are "
        "shown."
    )


def _memorization(generation: Mapping[str, Any]) -> str:
    """What the comparison with held-out images says."""
    if not isinstance(share := generation.get("memorization"), float):
        return ""
    low, high = (charts.percentage(end) for end in generation["intervals"]["memorization"])
    return (
        f"In {charts.percentage(share)} ({low} to {high}) of all pairs of a sample and a held-out image the "
        f"sample is nearer to a training image; {charts.percentage(NULL)} if samples are as new as these, "
        "more if they are copied, or smoother than real images."
    )


def _codes_note(report: Report) -> str:
    counts = report.codes.get("counts", np.zeros(0))
    return f"{np.count_nonzero(counts):,} of {len(counts):,} codes are used by the held-out images."


def _swept(variants: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Name, title and unit of every score of any variant."""
    return [
        (metric.name, metric.title, metric.unit)
        for metric in registry.GENERATION
        if not metric.deviation_of and any(metric.name in one["metrics"] for one in variants)
    ]


def _rows(evaluator: str, evaluation: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row per metric of the evaluation, in the order of the registry."""
    for metric in registry.EVALUATORS[evaluator]:
        # A deviation over one split is 0.
        if metric.name not in evaluation or (metric.deviation_of and evaluation[metric.name] == 0):
            continue
        bounds = evaluation.get("thresholds", {}).get(metric.name, {})
        direction = f"{metric.better} is better" if metric.better else ""
        yield {
            "title": metric.title,
            "value": charts.score(evaluation[metric.name], metric.unit),
            "interval": " to ".join(
                charts.score(end, metric.unit) for end in evaluation.get("intervals", {}).get(metric.name, ())
            ),
            "note": ", ".join(filter(None, [metric.note, direction])),
            "bounds": ", ".join(
                f"{word} {charts.score(bounds[bound], metric.unit)}"
                for bound, word in (("min", "at least"), ("max", "at most"))
                if bounds.get(bound) is not None
            ),
            "failed": any(
                failure["metric"] == metric.name for failure in evaluation.get("failed_thresholds", [])
            ),
        }
