"""The component RunReport."""

from __future__ import annotations

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import BaseChannel, Channel, component_spec, standard_artifacts

from components.run_report import executor


class RunReportSpec(component_spec.ComponentSpec):
    """Parameters, inputs and outputs."""

    PARAMETERS = {
        "config": component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
        "output_dir": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "reconstruction": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "generation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "linear_probe": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "tokenizer_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun, optional=True),
        "classifier_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun, optional=True),
        "vim_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
    }
    OUTPUTS = {
        "report": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
    }


class RunReport(base_component.BaseComponent):
    """Writes the report of a run: an HTML page, a file of metrics and two image grids."""

    SPEC_CLASS = RunReportSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        examples: BaseChannel,
        reconstruction: BaseChannel,
        generation: BaseChannel,
        linear_probe: BaseChannel,
        tokenizer_run: BaseChannel | None,
        classifier_run: BaseChannel | None,
        vim_run: BaseChannel,
        *,
        config: str,
        code: str,
        output_dir: str,
    ):
        """Build the component.

        Args:
          examples: the image Examples of the run.
          reconstruction: ReconstructionEvaluator's `evaluation`.
          generation: GenerationEvaluator's `evaluation`.
          linear_probe: LinearProbeEvaluator's `evaluation`.
          tokenizer_run: the tokenizer Trainer's `model_run`, with `history.jsonl`; None if it is imported.
          classifier_run: the classifier Trainer's `model_run`; None if it is pretrained.
          vim_run: the image model Trainer's `model_run`.
          config: the run's configuration as JSON.
          code: fingerprint of the code of all other components.
          output_dir: the run's folder, to which the report is also written; empty to skip this.
        """
        super().__init__(
            spec=RunReportSpec(
                examples=examples,
                reconstruction=reconstruction,
                generation=generation,
                linear_probe=linear_probe,
                tokenizer_run=tokenizer_run,
                classifier_run=classifier_run,
                vim_run=vim_run,
                config=config,
                code=code,
                output_dir=output_dir,
                report=Channel(type=standard_artifacts.ModelEvaluation),
            )
        )
