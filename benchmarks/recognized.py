"""Accuracy of an independent classifier on a run's samples: `python -m benchmarks.recognized runs/digits`.

A run scores its samples with its own ResNet, which rejection sampling uses too. Here the judge has no part in
the run: a support vector machine, trained on scikit-learn's 8 x 8 digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from serving.client import queries
from serving.client.client import Client
from serving.client.connect import open_folder
from serving.export.sampling_params import SamplingParams

CLASSES = 10
SIDE = 8
LEVELS = 16
ACCEPTANCE = 0.5
GUIDED: Mapping[str, Mapping[str, Any]] = {
    "guidance 2.0, linear": {"guidance_scale": 2.0, "guidance_schedule": "linear"},
    "guidance 2.0, constant": {"guidance_scale": 2.0},
}


class Judge(NamedTuple):
    """A support vector machine and its accuracy on held-out real digits."""

    machine: SVC
    accuracy: float

    @classmethod
    def trained(cls) -> Judge:
        """Train on 85 % of the real digits."""
        pixels, labels = load_digits(return_X_y=True)
        split = train_test_split(pixels, labels, test_size=0.15, random_state=0, stratify=labels)
        machine = SVC(gamma=0.001).fit(split[0], split[2])
        return cls(machine, machine.score(split[1], split[3]))

    def share(self, drawn: np.ndarray, classes: np.ndarray) -> float:
        """Return the share of images (uint8 [N, S, S, 3]) that it assigns to their class."""
        small = tf.image.resize(tf.cast(drawn, tf.float32), [SIDE, SIDE], method="area")
        grey = tf.reduce_mean(small, axis=-1) * (LEVELS / 255)
        return float(self.machine.score(grey.numpy().reshape(len(drawn), -1), classes))


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--samples",
    type=click.IntRange(CLASSES),
    default=1000,
    show_default=True,
    help="Samples per sampling method; rounded down to the same number per class.",
)
@click.option("--seed", default=1_000_000, show_default=True, help="First seed; the run's own begin at 0.")
def main(run: Path, samples: int, seed: int) -> None:
    """Sample digits from a run in several ways and classify them with an independent SVM."""
    judge = Judge.trained()
    samples -= samples % CLASSES
    table = Table("sampled with", "recognized")
    with open_folder(str(run / "serving")) as client:
        for way, drawn, classes in _drawn(client, run, samples, seed):
            table.add_row(way, f"{judge.share(drawn, classes):.1%}")
    table.caption = f"{samples} samples each; accuracy on held-out real digits {judge.accuracy:.1%}"
    Console(width=100).print(table)


def _drawn(
    client: Client, run: Path, samples: int, seed: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    candidates = np.arange(round(samples / ACCEPTANCE)) % CLASSES
    classes = candidates[:samples]
    plain, _ = queries.generate(client, candidates.tolist(), SamplingParams(seed=seed), batch_size=250)
    yield "temperature 1.0", plain[:samples], classes
    for way, options in GUIDED.items():
        params = SamplingParams(seed=seed, **options)
        drawn, _ = queries.generate(client, classes.tolist(), params, batch_size=250)
        yield way, drawn, classes
    sure = _probabilities(run, plain)[np.arange(len(candidates)), candidates]
    kept = np.concatenate(
        [_surest(sure, candidates == digit, samples // CLASSES) for digit in range(CLASSES)]
    )
    yield f"acceptance {ACCEPTANCE}", plain[kept], candidates[kept]


def _surest(sure: np.ndarray, own: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` images in the mask `own` that the classifier is surest of."""
    places = np.flatnonzero(own)
    return places[np.argsort(-sure[places], kind="stable")[:count]]


def _probabilities(run: Path, drawn: np.ndarray) -> np.ndarray:
    """Return the class probabilities of the run's newest classifier, [N, 10]."""
    models = (run / "pipeline_root" / "Trainer-classifier" / "model").iterdir()
    newest = max(models, key=lambda path: int(path.name))
    model = tf.saved_model.load(str(newest / "Format-Serving"))
    pixels = tf.cast(drawn, tf.float32) / 255.0
    parts = (pixels[start : start + 250] for start in range(0, len(pixels), 250))
    logits = [model.signatures["classify_pixels"](pixels=part)["logits"] for part in parts]
    return tf.nn.softmax(tf.concat(logits, axis=0)).numpy()


if __name__ == "__main__":
    main()
