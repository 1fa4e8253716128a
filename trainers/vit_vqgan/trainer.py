"""Trains the tokenizer: the `run_fn` of the Trainer component "tokenizer"."""

from __future__ import annotations

from typing import Any

from serving.export.signatures import exportable
from serving.export.tokenizer import export_tokenizer
from trainers.training import examples, job
from trainers.training.evaluation import averaged_pictures, held_out_metrics
from trainers.training.loop import fit
from trainers.training.step import training_step
from trainers.vit_vqgan.config import Stage1
from trainers.vit_vqgan.objective import Objective

# Held-out images that are evaluated during training; the evaluator uses all.
EVALUATION_IMAGES = 256
# The first of them are drawn in TensorBoard.
PICTURES = 8


def run_fn(fn_args: Any) -> None:
    """Train a ViT-VQGAN on image Examples and export it as the tokenizer SavedModel."""
    run, stage = job.read(fn_args.custom_config, Stage1)
    strategy = job.prepare(run.seed, stage.train)
    train_split = examples.open_split(fn_args.train_files)
    eval_split = examples.open_split(fn_args.eval_files)
    with strategy.scope(), job.explained(train_split, eval_split):
        held_out = examples.held_out_images(eval_split, run, limit=EVALUATION_IMAGES)
        objective = Objective(stage, image_size=run.image_size, seed=run.seed)
        job.warm_start(run, stage.train, objective.networks, stage="tokenizer")
        folders = job.training_folders(run, stage, train_split.fingerprint)
        history = fit(
            "tokenizer",
            stage.train,
            step=training_step(
                objective.states,
                objective.gradients,
                gradient_accumulation_steps=stage.train.gradient_accumulation_steps,
                post_step=objective.post_step,
                summarize=objective.summarize,
            ),
            batches=examples.image_batches(train_split, run, stage.train.batch_size),
            variables=objective.variables,
            evaluate=held_out_metrics(
                objective.held_out,
                held_out,
                stage.train,
                objective.states,
                summarize=objective.summarize,
            ),
            checkpoints=folders.checkpoints,
            logs=folders.logs,
            alarms=stage.alarms,
            pictures=averaged_pictures(
                lambda: objective.pictures(held_out["pixels"][:PICTURES]), objective.states
            ),
        )
        model = objective.model
        with job.export_folder(fn_args, history, objective.states, stage.alarms) as directory:
            export_tokenizer(
                directory,
                exportable(model),
                job.describe(
                    "tokenizer",
                    run,
                    tokens=model.tokens,
                    codebook_size=stage.model.codebook.size,
                    class_names=train_split.class_names,
                ),
                encode=model.encode,
                decode=model.decode,
                codes=model.quantizer.lookup,
            )
