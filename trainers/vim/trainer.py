"""Trains the image model: the `run_fn` of the Trainer component "vim"."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import tensorflow as tf

from serving.export import export_generator, read_metadata
from trainers.training import examples, job
from trainers.training.loop import fit
from trainers.training.optimizer import Batch, Metrics, adamw, descent_step
from trainers.vim.config import Stage2
from trainers.vim.model import VIM
from trainers.vim.sampling import sample

# Held-out rows looked at on the way.
EVALUATION_ROWS = 512


def run_fn(fn_args: Any) -> None:
    """Trains a VIM on token Examples and exports it with its tokenizer as the generator SavedModel."""
    run, stage = job.read(fn_args.custom_config, Stage2)
    job.seed_everything(run.seed)
    train_split = examples.open_split(fn_args.train_files)
    eval_split = examples.open_split(fn_args.eval_files)
    tokenizer = tf.saved_model.load(fn_args.base_model)
    metadata = read_metadata(tokenizer)
    parse = examples.token_parser(metadata.tokens)
    classes = len(metadata.class_names) if stage.model.class_conditional else 0
    model = VIM(stage.model, tokens=metadata.tokens, codebook_size=metadata.codebook_size, classes=classes)
    optimizer = adamw(stage.train.optimizer, stage.train.steps, model.trainable_variables)
    held_out = examples.first_records(eval_split, parse, limit=EVALUATION_ROWS)

    def losses(batch: Batch, *, training: bool) -> Metrics:
        return _losses(model, batch["tokens"], model.start(batch["label"]), training=training)

    def drop_label(example: Batch, seed: tf.Tensor) -> Batch:
        dropped = tf.random.stateless_uniform([], seed) < stage.model.label_drop
        return {**example, "label": tf.where(dropped, model.no_class, example["label"])}

    def batches(first_step: int) -> tf.data.Dataset:
        return examples.training_batches(
            train_split,
            parse,
            batch_size=stage.train.batch_size,
            seed=run.seed,
            first_step=first_step,
            augment=drop_label if classes else None,
        )

    name = job.training_name(run, stage, train_split.fingerprint)
    history = fit(
        "vim",
        stage.train,
        step=descent_step(model, optimizer, partial(losses, training=True)),
        batches=batches,
        state={"model": model.variables, "optimizer": optimizer.variables},
        evaluate=lambda: losses(held_out, training=False),
        checkpoints=os.path.join(run.checkpoints, name),
        logs=os.path.join(run.logs, name),
    )
    job.finish(fn_args, history)

    def encode(pixels: tf.Tensor) -> tf.Tensor:
        return tokenizer.signatures["encode_pixels"](pixels=pixels)["tokens"]

    def decode(tokens: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        decoded = tokenizer.signatures["decode_pixels"](tokens=tokens)
        return decoded["pixels"], decoded["log_scale"]

    export_generator(
        fn_args.serving_model_dir,
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
