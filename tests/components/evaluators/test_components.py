"""The evaluators as nodes of a graph."""

import pytest
from tfx.types import Channel, standard_artifacts

from components.evaluators.generation.component import GenerationEvaluator
from components.evaluators.linear_probe.component import LinearProbeEvaluator
from components.evaluators.reconstruction.component import ReconstructionEvaluator

EXAMPLES = Channel(type=standard_artifacts.Examples)
MODEL = Channel(type=standard_artifacts.Model)


@pytest.mark.parametrize("component", [ReconstructionEvaluator, GenerationEvaluator])
def test_a_judge_puts_out_an_evaluation_and_a_blessing(component):
    node = component(EXAMPLES, MODEL, MODEL, thresholds={"fid": {"max": 9.0}})
    assert node.outputs["evaluation"].type is standard_artifacts.ModelEvaluation
    assert node.outputs["blessing"].type is standard_artifacts.ModelBlessing
    assert node.exec_properties["thresholds"] == '{"fid": {"max": 9.0}}'


@pytest.mark.parametrize("component", [ReconstructionEvaluator, GenerationEvaluator])
def test_an_unknown_metric_is_found_before_anything_runs(component):
    with pytest.raises(ValueError, match=r"must name one of .*fid.*, got 'speed'"):
        component(EXAMPLES, MODEL, MODEL, thresholds={"speed": {"min": 1.0}})


def test_a_probe_puts_out_an_evaluation_alone():
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
def test_what_cannot_be_drawn_is_found_before_anything_runs(given, line):
    with pytest.raises(ValueError, match=line):
        GenerationEvaluator(EXAMPLES, MODEL, MODEL, **given)
