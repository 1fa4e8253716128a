"""Trains the image model: the `run_fn` of the Trainer component "vim"."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import tensorflow as tf

from serving.export import export_generator, read_metadata
from trainers.training import examples, job
from trainers.training.evaluation import held_out_metrics
from trainers.training.loop import fit
from trainers.training.step import Batch, Learner, Metrics, descent, training_step
from trainers.vim.config import Stage2
from trainers.vim.model import VIM
from trainers.vim.sampling import sample

# Held-out rows looked at on the way.
EVALUATION_ROWS = 512


def run_fn(fn_args: Any) -> None:
    """Trains a VIM on token Examples and exports it with its tokenizer as the generator SavedModel."""
    run, stage = job.read(fn_args.custom_config, Stage2)
    strategy = job.prepare(run.seed, stage.train)
    train_split = examples.open_split(fn_args.train_files)
    eval_split = examples.open_split(fn_args.eval_files)
    tokenizer = tf.saved_model.load(fn_args.base_model)
    metadata = read_metadata(tokenizer)
    parse = examples.token_parser(metadata.tokens)
    classes = len(metadata.class_names) if stage.model.class_conditional else 0
    held_out = examples.first_records(eval_split, parse, limit=EVALUATION_ROWS)

    with strategy.scope():
        model = VIM(
            stage.model,
            tokens=metadata.tokens,
            codebook_size=metadata.codebook_size,
            classes=classes,
            recompute=stage.train.recompute,
        )
        learner = Learner(model, stage.train)

        def losses(batch: Batch, *, training: bool) -> Metrics:
            return _losses(model, batch["tokens"], model.start(batch["label"]), training=training)

        def drop_label(example: Batch, seed: tf.Tensor) -> Batch:
            dropped = tf.random.stateless_uniform([], seed) < stage.model.label_drop
            return {**example, "label": tf.where(dropped, model.no_class, example["label"])}

        def batches(first_step: int, host: tf.distribute.InputContext) -> tf.data.Dataset:
            return examples.training_batches(
                train_split,
                parse,
                batch_size=stage.train.batch_size,
                seed=run.seed,
                first_step=first_step,
                host=host,
                augment=drop_label if classes else None,
            )

        name = job.training_name(run, stage, train_split.fingerprint)
        history = fit(
            "vim",
            stage.train,
            step=training_step(
                [learner],
                descent(learner, partial(losses, training=True)),
                accumulate=stage.train.accumulate,
            ),
            batches=batches,
            state={"vim": learner.state},
            evaluate=held_out_metrics(partial(losses, training=False), held_out, stage.train, [learner]),
            checkpoints=os.path.join(run.checkpoints, name),
            logs=os.path.join(run.logs, name),
        )

        def encode(pixels: tf.Tensor) -> tf.Tensor:
            return tokenizer.signatures["encode_pixels"](pixels=pixels)["tokens"]

        def decode(tokens: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            decoded = tokenizer.signatures["decode_pixels"](tokens=tokens)
            return decoded["pixels"], decoded["log_scale"]

        with job.finished(fn_args, history, [learner]) as directory:
            export_generator(
                directory,
                job.exportable(model, tokenizer=tokenizer),
                job.describe(
                    "generator",
                    run,
                    tokens=metadata.tokens,
                    codebook_size=metadata.codebook_size,
                    class_names=metadata.class_names if classes else (),
                ),
                encode=encode,
                decode=decode,
                sample=partial(sample, model),
                log_likelihood=model.log_likelihood,
                features=model.features,
            )


def _losses(model: VIM, tokens: tf.Tensor, class_id: tf.Tensor, *, training: bool) -> Metrics:
    """The negative log-likelihood in nats a token (equation 2), and the accuracy of the first guess."""
    logits = model(tokens, class_id, training=training)
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tokens, logits=logits)
    hits = tf.argmax(logits, axis=-1, output_type=tf.int32) == tokens
    return {"loss": tf.reduce_mean(nats), "accuracy": tf.reduce_mean(tf.cast(hits, tf.float32))}
