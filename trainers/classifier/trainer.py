"""Trains the domain classifier: the `run_fn` of the Trainer component "classifier".

Its pooled features are the feature space of FID, its class probabilities those of the Inception Score, and
its top-1 class of samples gives the class accuracy.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from serving.export.classifier import ROTATIONS, export_classifier
from serving.export.signatures import exportable
from trainers.classifier.config import Classifier
from trainers.classifier.model import ResNet
from trainers.training import examples, job
from trainers.training.evaluation import held_out_metrics
from trainers.training.loop import fit
from trainers.training.step import Batch, Metrics, loss_gradients, training_step
from trainers.training.train_state import TrainState

# Held-out images that are evaluated during training.
EVALUATION_IMAGES = 512


def run_fn(fn_args: Any) -> None:
    """Train a ResNet on image Examples, or on their rotations if they have no labels."""
    run, stage = job.read(fn_args.custom_config, Classifier)
    strategy = job.prepare(run.seed, stage.train)
    train_split = examples.open_split(fn_args.train_files)
    eval_split = examples.open_split(fn_args.eval_files)
    class_names = train_split.class_names or ROTATIONS
    prepare = _as_labelled if train_split.class_names else _rotate
    with strategy.scope(), job.explained(train_split, eval_split):
        held_out = examples.held_out_images(eval_split, run, limit=EVALUATION_IMAGES)
        model = ResNet(stage.model, image_size=run.image_size, classes=len(class_names))
        state = TrainState(model, stage.train)
        job.warm_start(run, stage.train, {"classifier": state}, stage="classifier")
        folders = job.training_folders(run, stage, train_split.fingerprint)
        history = fit(
            "classifier",
            stage.train,
            step=training_step(
                [state],
                loss_gradients(state, lambda batch: _losses(model, *prepare(batch), training=True)),
                gradient_accumulation_steps=stage.train.gradient_accumulation_steps,
            ),
            batches=examples.image_batches(train_split, run, stage.train.batch_size),
            variables={"classifier": state.variables},
            evaluate=held_out_metrics(
                lambda batch: _losses(model, *prepare(batch), training=False), held_out, stage.train, [state]
            ),
            checkpoints=folders.checkpoints,
            logs=folders.logs,
        )
        with job.export_folder(fn_args, history, [state]) as directory:
            export_classifier(
                directory,
                exportable(model),
                job.describe("classifier", run, class_names=class_names),
                classify=model.call,
            )


def _as_labelled(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    return batch["pixels"], batch["label"]


def _rotate(batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """Rotate image i of a whole batch by i quarter turns, and label it with i modulo 4."""
    pixels = batch["pixels"]
    quarters = batch.get("row", tf.range(tf.shape(pixels)[0])) % len(ROTATIONS)
    turned = tf.stack([tf.image.rot90(pixels, k) for k in range(len(ROTATIONS))], axis=1)
    return tf.gather(turned, quarters, batch_dims=1), quarters


def _losses(model: ResNet, pixels: tf.Tensor, labels: tf.Tensor, *, training: bool) -> Metrics:
    """Cross-entropy in nats, and top-1 accuracy."""
    logits, _ = model(pixels, training=training)
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    hits = tf.argmax(logits, axis=-1, output_type=tf.int32) == labels
    return {"loss": tf.reduce_mean(nats), "accuracy": tf.reduce_mean(tf.cast(hits, tf.float32))}
