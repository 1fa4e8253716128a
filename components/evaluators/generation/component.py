"""The component GenerationEvaluator."""

from __future__ import annotations

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, Channel, component_spec, standard_artifacts

from components.evaluators import blessing
from components.evaluators.generation import executor


class GenerationEvaluatorSpec(component_spec.ComponentSpec):
    """What goes in and comes out."""

    PARAMETERS = {
        "samples": component_spec.ExecutionParameter(type=int),
        "batch_size": component_spec.ExecutionParameter(type=int),
        "seed": component_spec.ExecutionParameter(type=int),
        "temperature": component_spec.ExecutionParameter(type=float),
        "top_k": component_spec.ExecutionParameter(type=int),
        "top_p": component_spec.ExecutionParameter(type=float),
        "guidance": component_spec.ExecutionParameter(type=float),
        "thresholds": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "classifier": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }


class GenerationEvaluator(base_beam_component.BaseBeamComponent):
    """Draws from an image model, compares with real images, and blesses it, or not, for Pusher."""

    SPEC_CLASS = GenerationEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        examples: BaseChannel,
        model: BaseChannel,
        classifier: BaseChannel,
        *,
        samples: int = 1000,
        batch_size: int = 100,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance: float = 1.0,
        thresholds: blessing.Thresholds | None = None,
    ):
        """Builds the component.

        Args:
          examples: image Examples with splits `train` and `eval`.
          model: a generator SavedModel (`generate`).
          classifier: a classifier SavedModel (`classify_pixels`).
          samples: how many images are drawn, the classes in turn.
          batch_size: images in one call of a model.
          seed: of the whole set; every image has its own seed from it.
          temperature: of the softmax; 1.0 draws from the model itself.
          top_k: only the k likeliest codes; 0 is off.
          top_p: only the likeliest codes of that much probability; 1.0 is off.
          guidance: classifier-free guidance scale; 1.0 is off.
          thresholds: metric -> {"min": bound, "max": bound}; all must hold for a blessing.
        """
        super().__init__(
            spec=GenerationEvaluatorSpec(
                examples=examples,
                model=model,
                classifier=classifier,
                samples=samples,
                batch_size=batch_size,
                seed=seed,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                guidance=guidance,
                thresholds=blessing.thresholds_to_json(thresholds, executor.METRICS),
                evaluation=Channel(type=standard_artifacts.ModelEvaluation),
                blessing=Channel(type=standard_artifacts.ModelBlessing),
            )
        )
