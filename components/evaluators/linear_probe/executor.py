"""The linear probe (section 5.3, appendix A): what a linear layer reads off each block of the image model."""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import tensorflow as tf
from tfx.dsl.components.base import base_executor
from tfx.types import Artifact, artifact_utils

from components.evaluators import blessing, examples
from components.evaluators.linear_probe import probe
from components.evaluators.models import SavedModel
from serving.metadata import Metadata


class Executor(base_executor.BaseExecutor):
    """Does the work of LinearProbeEvaluator."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Trains on the train split, measures on the eval split, writes `evaluation.json`.

        Where images have no labels the evaluation says `"skipped": "no labels"` and nothing else.
        `warnings` lists what makes the scores say less than they seem to.

        Each image is encoded once. Its features, L D float32 numbers, wait in a temporary folder (TMPDIR)
        for the epochs: 6 MB for the digits' preset, 189 GB for VIM-Base on ImageNet.

        Args:
          input_dict: `examples`, `model` (a generator).
          output_dict: `evaluation`.
          exec_properties: `batch_size`, `epochs`, `learning_rate`, `label_drop`, `seed`.

        Raises:
          ValueError: a split is empty.
        """
        started = time.monotonic()
        evaluation = artifact_utils.get_single_instance(output_dict["evaluation"])
        images = input_dict["examples"]
        classes = len(examples.dataset(images).class_names)
        counts = {f"{split}_images": examples.count(images, split) for split in ("train", "eval")}
        protocol = {
            "features": "mean over tokens of each block's output, started without a class",
            "blocks": "counted from 1",
            "layer": "standardized by the train split, one linear layer, no weight decay",
            "optimizer": "Adam, linear warm-up, cosine decay",
            "augmentation": "none",
            "train": "train split",
            "score": "eval split, best block chosen on it",
            **exec_properties,
        }
        if not classes:
            blessing.write_evaluation(
                evaluation,
                metrics={},
                protocol=protocol,
                counts=counts,
                seconds=time.monotonic() - started,
                skipped="no labels",
            )
            return

        batch_size = exec_properties["batch_size"]
        saved = SavedModel(input_dict["model"])
        model = saved.load()
        # The features of a large data set do not fit in memory: they go through a cache on disk.
        with tempfile.TemporaryDirectory() as cache:
            splits = {
                split: _features(model, images, split, batch_size).cache(os.path.join(cache, split))
                for split in ("train", "eval")
            }
            trained = probe.train(
                splits["train"],
                counts["train_images"],
                classes,
                batch_size=batch_size,
                epochs=exec_properties["epochs"],
                learning_rate=exec_properties["learning_rate"],
                seed=exec_properties["seed"],
            )
            accuracy = probe.evaluate(trained, splits["eval"], batch_size)
        blessing.write_evaluation(
            evaluation,
            metrics=_metrics(accuracy, classes),
            protocol=protocol,
            counts=counts,
            seconds=time.monotonic() - started,
            warnings=_warnings(saved.metadata(), exec_properties["label_drop"]),
        )


def _warnings(metadata: Metadata, label_drop: float) -> list[str]:
    if not metadata.class_names or label_drop:
        return []
    return [
        "The image model was trained with a class in front of every image (label_drop 0), and never saw the "
        "start without one that these features come from."
    ]


def _features(model: Any, images: list[Artifact], split: str, batch_size: int) -> tf.data.Dataset:
    def featurize(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        answer = model.signatures["features"](image_bytes=batch["image_bytes"])
        return answer["features"], batch["labels"]

    return examples.read_dataset(images, split, batch_size).map(featurize).unbatch()


def _metrics(accuracy: probe.Accuracy, classes: int) -> dict[str, Any]:
    best = int(accuracy.top1.argmax())
    metrics: dict[str, Any] = {
        "top1": float(accuracy.top1[best]),
        "top5": float(accuracy.top5[best]),
        "best_block": best + 1,
        "by_block": [
            {"block": block, "top1": float(top1), "top5": float(top5)}
            for block, (top1, top5) in enumerate(zip(*accuracy, strict=True), start=1)
        ],
    }
    if classes <= 5:  # everything is among the five likeliest
        for scores in (metrics, *metrics["by_block"]):
            del scores["top5"]
    return metrics
