"""Trains the tokenizer: the `run_fn` of the Trainer component "tokenizer"."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from serving.export import export_tokenizer
from trainers.training import examples, job
from trainers.training.loop import fit
from trainers.training.optimizer import Metrics, adamw, descent_step
from trainers.vit_vqgan import codebook, losses
from trainers.vit_vqgan.config import Stage1
from trainers.vit_vqgan.model import ViTVQGAN

# Held-out images looked at on the way; the evaluator sees them all.
EVALUATION_IMAGES = 256


def run_fn(fn_args: Any) -> None:
    """Trains a ViT-VQGAN on image Examples and exports it as the tokenizer SavedModel."""
    run, stage = job.read(fn_args.custom_config, Stage1)
    job.seed_everything(run.seed)
    train_split = examples.open_split(fn_args.train_files)
    eval_split = examples.open_split(fn_args.eval_files)
    model = ViTVQGAN(stage.model, image_size=run.image_size, seed=run.seed)
    optimizer = adamw(stage.train.optimizer, stage.train.steps, model.trainable_variables)
    held_out = examples.held_out_images(eval_split, run, limit=EVALUATION_IMAGES)
    weights = stage.loss.model_dump()

    name = job.training_name(run, stage, train_split.fingerprint)
    history = fit(
        "tokenizer",
        stage.train,
        step=descent_step(
            model, optimizer, lambda batch: _losses(model, weights, batch["pixels"], training=True)
        ),
        batches=examples.image_batches(train_split, run, stage.train.batch_size),
        state={"model": model.variables, "optimizer": optimizer.variables},
        evaluate=lambda: _losses(model, weights, held_out["pixels"], training=False),
        checkpoints=os.path.join(run.checkpoints, name),
        logs=os.path.join(run.logs, name),
    )
    job.finish(fn_args, history)
    metadata = job.describe(
        "tokenizer",
        run,
        tokens=model.tokens,
        codebook_size=stage.model.codebook.size,
        class_names=train_split.class_names,
    )
    export_tokenizer(
        fn_args.serving_model_dir,
        job.exportable(model),
        metadata,
        encode=model.encode,
        decode=model.decode,
    )


def _losses(model: ViTVQGAN, weights: Mapping[str, float], pixels: tf.Tensor, *, training: bool) -> Metrics:
    """The loss, its parts and the codebook's health on a batch of pixels [B, S, S, 3] in [0, 1]."""
    distribution, quantized = model(pixels, training=training)
    reconstruction = distribution.pixels()
    parts = {
        "vq": quantized.loss,
        "l2": losses.l2(pixels, reconstruction),
        "logit_laplace": losses.logit_laplace(pixels, distribution.mu, distribution.log_scale),
    }
    shares = codebook.token_shares(quantized.tokens, model.options.codebook.size)
    return {
        "loss": tf.add_n([weights[name] * part for name, part in parts.items()]),
        **parts,
        "psnr": losses.psnr(pixels, reconstruction),
        "codebook_usage": codebook.usage(shares),
        "codebook_perplexity": codebook.perplexity(shares),
    }
