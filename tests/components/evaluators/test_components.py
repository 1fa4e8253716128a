"""Build the evaluators as nodes of a pipeline graph."""

import pytest
from tfx.types import Channel, standard_artifacts

from components.evaluators.generation.component import GenerationEvaluator
from components.evaluators.linear_probe.component import LinearProbeEvaluator
from components.evaluators.reconstruction.component import ReconstructionEvaluator
from components.image_sampler.component import ImageSampler

EXAMPLES = Channel(type=standard_artifacts.Examples)
REFERENCE = Channel(type=standard_artifacts.ExampleStatistics)
MODEL = Channel(type=standard_artifacts.Model)
# What each compares images with.
EVALUATORS = [
    (ReconstructionEvaluator, [EXAMPLES]),
    (GenerationEvaluator, [EXAMPLES, REFERENCE, EXAMPLES]),
]


@pytest.mark.parametrize(
    ("component", "examples"),
    EVALUATORS,
)
def test_evaluator_outputs_an_evaluation_and_a_blessing(component, examples):
    node = component(*examples, MODEL, MODEL, thresholds={"fid": {"max": 9.0}})
    assert node.outputs["evaluation"].type is standard_artifacts.ModelEvaluation
    assert node.outputs["blessing"].type is standard_artifacts.ModelBlessing
    assert node.exec_properties["thresholds"] == '{"fid": {"max": 9.0}}'


@pytest.mark.parametrize(
    ("component", "examples"),
    EVALUATORS,
)
def test_unknown_metric_is_rejected_at_construction(component, examples):
    with pytest.raises(ValueError, match=r"must name one of .*fid.*, got 'speed'"):
        component(*examples, MODEL, MODEL, thresholds={"speed": {"min": 1.0}})


def test_linear_probe_outputs_only_an_evaluation():
    node = LinearProbeEvaluator(EXAMPLES, MODEL, class_dropout=0.1, epochs=3)
    assert set(node.outputs) == {"evaluation"}
    assert node.exec_properties["epochs"] == 3


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"acceptance": 0.0}, r"acceptance must be in \(0, 1\], got 0\.0"),
        ({"acceptance": 2.0}, r"acceptance must be in \(0, 1\], got 2\.0"),
    ],
)
def test_invalid_acceptance_is_rejected_at_construction(given, line):
    with pytest.raises(ValueError, match=line):
        ImageSampler(MODEL, drawn="drawn", **given)
