"""The component LinearProbeEvaluator."""

from __future__ import annotations

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, Channel, component_spec, standard_artifacts

from components.evaluators.linear_probe import executor


class LinearProbeEvaluatorSpec(component_spec.ComponentSpec):
    """Parameters, inputs and outputs."""

    PARAMETERS = {
        "batch_size": component_spec.ExecutionParameter(type=int),
        "features_batch_size": component_spec.ExecutionParameter(type=int),
        "epochs": component_spec.ExecutionParameter(type=int),
        "learning_rate": component_spec.ExecutionParameter(type=float),
        "class_dropout": component_spec.ExecutionParameter(type=float),
        "seed": component_spec.ExecutionParameter(type=int),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
    }


class LinearProbeEvaluator(base_component.BaseComponent):
    """Trains a linear classifier on the frozen output of every block of an image model."""

    SPEC_CLASS = LinearProbeEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        examples: BaseChannel,
        model: BaseChannel,
        *,
        class_dropout: float,
        batch_size: int = 64,
        features_batch_size: int = 64,
        epochs: int = 90,
        learning_rate: float = 1e-2,
        seed: int = 0,
    ):
        """Build the component.

        Args:
          examples: image Examples with splits `train` and `eval`; without labels, nothing is measured.
          model: a generator SavedModel (`features`), of any tokenizer and image model.
          class_dropout: the fraction of training rows for which the image model's class was dropped; the
            SavedModel does not store it. The features of a class-conditional model start without a class,
            which only these rows train: at 0 the evaluation warns. Not used without classes.
          batch_size: images per step of the probe.
          features_batch_size: images per call of the model.
          epochs: passes over the train split.
          learning_rate: Adam's peak.
          seed: for shuffling the images.
        """
        super().__init__(
            spec=LinearProbeEvaluatorSpec(
                examples=examples,
                model=model,
                batch_size=batch_size,
                features_batch_size=features_batch_size,
                epochs=epochs,
                learning_rate=learning_rate,
                class_dropout=class_dropout,
                seed=seed,
                evaluation=Channel(type=standard_artifacts.ModelEvaluation),
            )
        )
