"""The linear probe (section 5.3, appendix A): a linear classifier on each block of the image model."""

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
from components.metrics import intervals, registry
from components.saved_model import SavedModel
from serving.export.atomic import DRAFT, is_remote
from serving.export.metadata import ERROR, Metadata
from serving.export.records import naming_damage


class Executor(base_executor.BaseExecutor):
    """Executor of LinearProbeEvaluator."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Train on the train split, measure on the eval split, write `evaluation.json`.

        Without labels the evaluation holds `"skipped": "no labels"` and no metrics. `warnings` lists reasons
        to distrust the scores.

        Each image is encoded once. Its features, L D float16 numbers, are cached for all epochs, in TMPDIR if
        that is set, else beside the evaluation: 3 MB for the digits' preset, 94 GB for VIM-Base on ImageNet.

        Args:
          input_dict: `examples`, `model` (a generator).
          output_dict: `evaluation`.
          exec_properties: `batch_size`, `features_batch_size`, `epochs`, `learning_rate`, `class_dropout`,
            `seed`.

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

        batch_size, at_once = exec_properties["batch_size"], exec_properties["features_batch_size"]
        saved = SavedModel.of(input_dict["model"])
        model = saved.load()
        # The features of a large data set do not fit in memory: they go through a cache on disk.
        files = [file for split in ("train", "eval") for file in examples.split_files(images, split)]
        # In the artifact, if that is on this machine: there the next run removes what a killed one has left.
        place = None if is_remote(evaluation.uri) or "TMPDIR" in os.environ else evaluation.uri
        with tempfile.TemporaryDirectory(prefix=DRAFT, dir=place) as cache, naming_damage(files):
            splits = {
                split: _cached(_features(model, images, split, at_once), os.path.join(cache, split))
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
        metrics = _metrics(accuracy, classes)
        blessing.write_evaluation(
            evaluation,
            metrics=metrics,
            intervals={
                name: intervals.of_share(metrics[name], counts["eval_images"])
                for name in ("top1", "top5")
                if name in metrics
            },
            classes=classes,
            protocol=protocol,
            counts=counts,
            seconds=time.monotonic() - started,
            warnings=_warnings(saved.metadata(), exec_properties["class_dropout"]),
        )


def _warnings(metadata: Metadata, class_dropout: float) -> list[str]:
    if not metadata.class_names or class_dropout:
        return []
    return [
        "The image model was trained with class_dropout 0, so the start without a class, with which these "
        "features begin, was never trained."
    ]


def _features(model: Any, images: list[Artifact], split: str, batch_size: int) -> tf.data.Dataset:
    def featurize(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        answer = model.signatures["features"](image_bytes=batch["image_bytes"])
        # An image model of others may have no errors by row, and raise them.
        errors = answer.get(ERROR, tf.constant([""]))
        refused = tf.boolean_mask(errors, errors != "")
        with tf.control_dependencies([tf.debugging.Assert(tf.size(refused) == 0, [refused], summarize=1)]):
            return tf.identity(answer["features"]), batch["labels"]

    return examples.read_dataset(images, split, batch_size).map(featurize).unbatch()


def _cached(features: tf.data.Dataset, path: str) -> tf.data.Dataset:
    """The same features, rounded to float16 and kept in a file; 11 bits are more than a linear layer sees."""
    limit = tf.float16.max

    def compact(feature: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(tf.clip_by_value(feature, -limit, limit), tf.float16), label

    def restored(feature: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(feature, tf.float32), label

    return features.map(compact).cache(path).map(restored)


def _metrics(accuracy: probe.Accuracy, classes: int) -> dict[str, Any]:
    needs = registry.available_needs(classes)
    metrics = registry.compute(registry.LINEAR_PROBE, registry.ProbeStatistics(*accuracy), needs)
    shown = [name for name in ("top1", "top5") if name in metrics]
    by_block = [
        {"block": block, **{name: float(getattr(accuracy, name)[block - 1]) for name in shown}}
        for block in range(1, len(accuracy.top1) + 1)
    ]
    return {**metrics, "by_block": by_block}
