"""Trains the image model: the `run_fn` of the Trainer component "vim"."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import tensorflow as tf

from serving.export import compiled
from serving.export.compiled import export_compiled
from serving.export.fingerprint import fingerprint
from serving.export.generator import Generator, export_generator
from serving.export.sampling_params import BatchSamplingParams, SamplingRequest
from serving.export.signatures import exportable, read_metadata
from trainers.training import examples, job
from trainers.training.alarms import OVERFITTING
from trainers.training.errors import TrainingError
from trainers.training.evaluation import averaged_pictures, held_out_metrics
from trainers.training.loop import fit
from trainers.training.step import Batch, Metrics, loss_gradients, training_step
from trainers.training.train_state import TrainState
from trainers.vim.config import Stage2
from trainers.vim.model import VIM
from trainers.vim.rows import row_augmentation
from trainers.vim.sampler import CompiledSampler, Program, Sampler

# Held-out rows that are evaluated during training.
EVALUATION_ROWS = 512


def run_fn(fn_args: Any) -> None:
    """Train a VIM on token Examples and export it with its tokenizer as the generator SavedModel.

    With `tokens: on_the_fly` the Examples are images, and the tokenizer runs in the step.
    """
    run, stage = job.read(fn_args.custom_config, Stage2)
    strategy = job.prepare(run.seed, stage.train)
    train_split = examples.open_split(fn_args.train_files)
    eval_split = examples.open_split(fn_args.eval_files)
    on_the_fly = stage.tokens == "on_the_fly"
    # In a strategy's scope every device gets a copy, which only a tokenizer in the step needs.
    with strategy.scope() if on_the_fly else nullcontext():
        tokenizer = tf.saved_model.load(fn_args.base_model)
    metadata = read_metadata(tokenizer)

    with strategy.scope(), job.explained(train_split, eval_split):
        classes = len(train_split.class_names) if stage.model.class_conditional else 0
        model = VIM(
            stage.model,
            tokens=metadata.tokens,
            codebook_size=metadata.codebook_size,
            classes=classes,
            memory=stage.train.memory,
        )
        state = TrainState(model, stage.train)
        job.warm_start(run, stage.train, {"vim": state}, stage="vim")
        augment = row_augmentation(
            stage.model,
            tokens=metadata.tokens,
            no_class=model.no_class,
            batch_size=stage.train.batch_size,
        )

        def encode(pixels: tf.Tensor) -> tf.Tensor:
            return tokenizer.signatures["encode_pixels"](pixels=pixels)["tokens"]

        def on_tokens(batch: Batch, *, training: bool) -> Metrics:
            tokens = encode(batch["pixels"]) if "pixels" in batch else batch["tokens"]
            return losses(model, {**batch, "tokens": tokens}, training=training)

        if on_the_fly:
            batches = examples.image_batches(train_split, run, stage.train.batch_size, augment=augment)
            held_out = examples.held_out_images(eval_split, run, limit=EVALUATION_ROWS)
        else:
            batches = examples.token_batches(
                train_split, run, stage.train.batch_size, tokens=metadata.tokens, augment=augment
            )
            held_out = examples.held_out_tokens(eval_split, tokens=metadata.tokens, limit=EVALUATION_ROWS)

        # The fingerprint of cached tokens depends on their tokenizer, that of images does not.
        inputs = [fingerprint(fn_args.base_model)] if on_the_fly else []
        folders = job.training_folders(run, stage, train_split.fingerprint, *inputs)
        sampler = Sampler(model, stage.sampler)

        def decode(tokens: tf.Tensor) -> tf.Tensor:
            return tokenizer.signatures["decode_pixels"](tokens=tokens)["pixels"]

        history = fit(
            "vim",
            stage.train,
            step=training_step(
                [state],
                loss_gradients(state, partial(on_tokens, training=True)),
                gradient_accumulation_steps=stage.train.gradient_accumulation_steps,
            ),
            batches=batches,
            variables={"vim": state.variables},
            evaluate=held_out_metrics(partial(on_tokens, training=False), held_out, stage.train, [state]),
            checkpoints=folders.checkpoints,
            logs=folders.logs,
            alarms=[OVERFITTING],
            **_pictures(stage.logged_samples, model, sampler, decode, state),
        )

        generator = Generator(
            job.describe(
                "generator",
                run,
                tokens=metadata.tokens,
                codebook_size=metadata.codebook_size,
                class_names=train_split.class_names if classes else (),
            ),
            encode=encode,
            decode=decode,
            sample=lambda request: sampler(request).tokens,
            log_likelihood=model.log_likelihood,
            features=model.features,
        )
        with job.export_folder(fn_args, history, [state], [OVERFITTING]) as directory:
            export_generator(directory, exportable(model, tokenizer=tokenizer), generator)
            if stage.sampler.compiled:
                export_compiled(
                    compiled.beside(directory),
                    exportable(model, tokenizer=tokenizer),
                    generator.metadata,
                    sample=lambda request, guided: (
                        CompiledSampler(model, Program(guided), stage.sampler)(request).tokens
                    ),
                    decode=decode,
                )


def _pictures(
    count: int, model: VIM, sampler: Sampler, decode: Callable[[tf.Tensor], tf.Tensor], state: TrainState
) -> dict[str, Any]:
    """The argument `pictures` of `fit`, if any are wanted: samples of the same classes and seeds."""
    if not count:
        return {}
    if isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy):
        raise TrainingError(f"stage2.logged_samples must be 0 on a TPU, got {count}")

    def draw() -> dict[str, tf.Tensor]:
        row, ones = tf.range(count), tf.ones(count)
        params = BatchSamplingParams(ones, tf.zeros(count, tf.int32), ones, ones, ones)
        request = SamplingRequest(
            class_id=row % max(model.classes, 1),
            seed=tf.cast(row, tf.int64),
            params=params,
            prompt=tf.zeros([count, model.tokens], tf.int32),
            prompt_length=tf.zeros(count, tf.int32),
        )
        return {"samples": decode(sampler(request).tokens)}

    return {"pictures": averaged_pictures(draw, [state])}


def losses(model: VIM, batch: Batch, *, training: bool) -> Metrics:
    """The negative log-likelihood in nats a token (equation 2), and the top-1 accuracy of tokens.

    If a batch has orders, logits and tokens are both permuted by them: the likelihood factors in any order.
    """
    tokens, order = batch["tokens"], batch.get("order")
    logits = model(tokens, model.start(batch["label"]), order=order, training=training)
    if order is not None:
        tokens = tf.gather(tokens, order, batch_dims=1)
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tokens, logits=logits)
    hits = tf.argmax(logits, axis=-1, output_type=tf.int32) == tokens
    return {"loss": tf.reduce_mean(nats), "accuracy": tf.reduce_mean(tf.cast(hits, tf.float32))}
