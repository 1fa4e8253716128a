"""The component GenerationEvaluator."""

from __future__ import annotations

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, Channel, component_spec, standard_artifacts

from components.evaluators import blessing
from components.evaluators.generation import executor
from serving.queries import GUIDANCE_SCHEDULES


class GenerationEvaluatorSpec(component_spec.ComponentSpec):
    """What goes in and comes out."""

    PARAMETERS = {
        "samples": component_spec.ExecutionParameter(type=int),
        "batch_size": component_spec.ExecutionParameter(type=int),
        "seed": component_spec.ExecutionParameter(type=int),
        "acceptance": component_spec.ExecutionParameter(type=float),
        "temperature": component_spec.ExecutionParameter(type=float),
        "top_k": component_spec.ExecutionParameter(type=int),
        "top_p": component_spec.ExecutionParameter(type=float),
        "guidance": component_spec.ExecutionParameter(type=float),
        "guidance_schedule": component_spec.ExecutionParameter(type=str),
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
        acceptance: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance: float = 1.0,
        guidance_schedule: str = "constant",
        thresholds: blessing.Thresholds | None = None,
    ):
        """Builds the component.

        Args:
          examples: image Examples with splits `train` and `eval`.
          model: a generator SavedModel (`generate`).
          classifier: a classifier SavedModel (`classify_pixels`).
          samples: how many images are scored, the classes in turn.
          batch_size: images in one call of a model.
          seed: of the whole set; every image has its own seed from it.
          acceptance: in (0, 1]; of each class 1 / acceptance times as many are drawn as are scored, and
            those are kept that the classifier takes for that class most surely. 1.0 keeps all.
          temperature: of the softmax; 1.0 draws from the model itself.
          top_k: only the k likeliest codes; 0 is off.
          top_p: only the likeliest codes of that much probability; 1.0 is off.
          guidance: classifier-free guidance scale; 1.0 is off.
          guidance_schedule: `constant`, or `linear`, which rises from 1 at the first token to `guidance`
            at the last and needs the generator's signature `generate_linear`.
          thresholds: metric -> {"min": bound, "max": bound}; all must hold for a blessing.

        Raises:
          ValueError: an acceptance, a schedule, a metric or a bound that is not allowed.
        """
        if not 0 < acceptance <= 1:
            raise ValueError(f"acceptance {acceptance} is not allowed, it is in (0, 1]")
        if guidance_schedule not in GUIDANCE_SCHEDULES:
            allowed = ", ".join(GUIDANCE_SCHEDULES)
            raise ValueError(f"unknown guidance_schedule {guidance_schedule!r}, allowed are {allowed}")
        super().__init__(
            spec=GenerationEvaluatorSpec(
                examples=examples,
                model=model,
                classifier=classifier,
                samples=samples,
                batch_size=batch_size,
                seed=seed,
                acceptance=acceptance,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                guidance=guidance,
                guidance_schedule=guidance_schedule,
                thresholds=blessing.thresholds_to_json(thresholds, executor.METRICS),
                evaluation=Channel(type=standard_artifacts.ModelEvaluation),
                blessing=Channel(type=standard_artifacts.ModelBlessing),
            )
        )
