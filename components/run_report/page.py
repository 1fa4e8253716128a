"""The report's HTML page: the main results, readable in ten seconds, first; everything else below."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from components.metrics import registry
from components.run_report import charts, pictures
from components.run_report.report import Report, Row

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

# More points than this are not visible in a chart, and fewer keep the page small.
MAX_POINTS = 400


def render(report: Report) -> str:
    """Render the whole page as one self-contained HTML file."""
    components = report.metrics.get("components", [])
    html = template("report.html").render(
        config=report.config,
        dataset=report.dataset,
        verdicts=list(_verdicts(report.metrics)),
        warnings=report.metrics.get("warnings", []),
        headline=list(_headline(report.metrics)),
        samples=_gallery(report.sample_rows()),
        samples_note=_samples_note(report.metrics["generation"]),
        pairs=_gallery(report.pair_rows()),
        stages=[
            (STAGES.get(stage, stage), report.alarms.get(stage, []), *_training_charts(history))
            for stage, history in report.histories.items()
        ],
        probe=_probe_chart(report.metrics["linear_probe"]),
        probe_warnings=report.metrics["linear_probe"].get("warnings", []),
        evaluations=[
            (title, report.metrics[name], list(_rows(name, report.metrics[name])))
            for name, title in EVALUATIONS.items()
        ],
        components=components,
        longest=max((component["seconds"] for component in components), default=0) or 1,
        total=sum(component["seconds"] for component in components if component["state"] != "cached"),
        configuration=yaml.safe_dump(dict(report.config), sort_keys=False),
    )
    return html.lstrip()  # the macros at the start leave empty lines


def show(value: float | None, unit: str = "") -> str:
    """Format a score for the page."""
    if value is None:
        return "not finite"
    if unit == "%":
        return charts.percentage(value)
    return f"{value:.1f} {unit}" if unit else charts.number(value)


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
    environment.filters.update(duration=duration, plain=_plain)
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
    yield "Reconstruction", show(reconstruction["psnr"], "dB"), f"PSNR of {images:,} held-out images"
    perplexity = show(reconstruction["codebook_perplexity"])
    batch = reconstruction["protocol"]["usage_batch"]
    usage = show(reconstruction["codebook_usage"], "%")
    yield "Codebook in use", usage, f"by {batch} images; perplexity {perplexity}"
    if "class_accuracy" in generation:
        accuracy = show(generation["class_accuracy"], "%")
        counts = generation["counts"]
        kept = f" kept of {counts['candidates']:,}" if _rejects(generation) else ""
        yield "Recognized", accuracy, f"of {counts['samples']:,} samples{kept}, by the classifier"
    real = f"real images have {show(generation['fid_eval'])}"
    if "fid_matched" in generation:
        matched, real = show(generation["fid_matched"]), show(generation["fid_eval"])
        real = f"of {generation['counts']['matched']:,}: {matched}; as many real ones {real}"
    yield "FID of samples", show(generation["fid"]), real
    if "top1" in probe:
        blocks = len(probe["by_block"])
        yield "Linear probe", show(probe["top1"], "%"), f"top-1 at block {probe['best_block']} of {blocks}"


def _rejects(generation: Mapping[str, Any]) -> bool:
    return generation["protocol"]["acceptance"] < 1


def _samples_note(generation: Mapping[str, Any]) -> str:
    if not _rejects(generation):
        return "Sampled from the image model, not selected: the first of each class."
    counts = generation["counts"]
    return (
        f"Sampled from the image model and selected by the classifier: of {counts['candidates']:,} it kept "
        f"the {counts['samples']:,} with the highest probability of their class. The first of each class are "
        "shown."
    )


def _gallery(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    return [(label, [pictures.data_uri(image) for image in images]) for label, images in rows]


def _rows(evaluator: str, evaluation: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row per metric of the evaluation, in the order of the registry."""
    splits = evaluation["protocol"].get("inception_splits", 1)
    for metric in registry.EVALUATORS[evaluator]:
        if metric.name not in evaluation or (metric.deviation_of and splits == 1):
            continue
        bounds = evaluation.get("thresholds", {}).get(metric.name, {})
        direction = f"{metric.better} is better" if metric.better else ""
        yield {
            "title": metric.title,
            "value": show(evaluation[metric.name], metric.unit),
            "interval": " to ".join(
                show(end, metric.unit) for end in evaluation.get("intervals", {}).get(metric.name, ())
            ),
            "note": ", ".join(filter(None, [metric.note, direction])),
            "bounds": ", ".join(
                f"{word} {show(bounds[bound], metric.unit)}"
                for bound, word in (("min", "at least"), ("max", "at most"))
                if bounds.get(bound) is not None
            ),
            "failed": any(
                failure["metric"] == metric.name for failure in evaluation.get("failed_thresholds", [])
            ),
        }


def _probe_chart(probe: Mapping[str, Any]) -> charts.Lines | None:
    """Accuracy over blocks, as in Figure 3."""
    if "by_block" not in probe:
        return None
    blocks = probe["by_block"]
    numbers = [row["block"] for row in blocks]
    return charts.lines(
        "Accuracy",
        [
            charts.Series(title, numbers, [row[name] for row in blocks])
            for name, title in (("top1", "Top-1"), ("top5", "Top-5"))
            if name in blocks[0]
        ],
        percent=True,
        over="blocks",
        marked=probe["best_block"],
    )


def _training_charts(history: Sequence[Mapping[str, Any]]) -> tuple[list[charts.Lines], list[charts.Lines]]:
    """The charts of one stage: those always shown, and those of all other logged values."""
    names = list(dict.fromkeys(key for row in history for key in row if key != "step"))
    series = {name: one for name in names if (one := _series(history, name)).steps}
    bases = list(dict.fromkeys(name.removeprefix("eval_") for name in series))
    main: list[charts.Lines] = []
    rest: list[charts.Lines] = []
    for base in bases:
        both = [series[name] for name in (base, f"eval_{base}") if name in series]
        percent = any(word in base for word in ("usage", "accuracy", "top1"))
        chart = charts.lines(base.replace("_", " "), both, percent=percent)
        shown = base in ("loss", "psnr", "codebook_perplexity") or percent
        (main if shown else rest).append(chart)
    return main, rest


def _series(history: Sequence[Mapping[str, Any]], name: str) -> charts.Series:
    points = [
        (row["step"], row[name])
        for row in history
        if isinstance(row.get(name), int | float) and math.isfinite(row[name])
    ]
    # Thinned evenly; the last value, which the legend quotes, always stays.
    stride = -(-len(points) // MAX_POINTS) or 1
    points = points[::-1][::stride][::-1]
    label = "eval" if name.startswith("eval_") else "train"
    return charts.Series(label, [step for step, _ in points], [value for _, value in points])
