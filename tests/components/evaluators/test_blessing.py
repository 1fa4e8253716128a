import json
import math
from pathlib import Path

import pytest
from tfx.components.util import model_utils
from tfx.types import standard_artifacts

from components.evaluators import blessing
from tests.components.evaluators.artifacts import artifact, outputs


def judge(tmp_path, metrics, thresholds, pushed=blessing.Pushed()):
    made = outputs(tmp_path)
    model = artifact(standard_artifacts.Model, tmp_path / "model", identity=7)
    blessing.judge(
        made["evaluation"],
        made["blessing"],
        model,
        metrics=metrics,
        thresholds=thresholds,
        protocol={},
        counts={},
        seconds=1.0,
        pushed=pushed,
    )
    evaluation = json.loads(Path(made["evaluation"].uri, "evaluation.json").read_text())
    return evaluation, made["blessing"], made["evaluation"]


def test_met_thresholds_bless_the_model_for_pusher(tmp_path):
    evaluation, blessed, _ = judge(tmp_path, {"psnr": 22.0}, {"psnr": {"min": 21.0, "max": None}})
    assert evaluation["blessed"]
    assert model_utils.is_model_blessed(blessed)
    assert blessed.get_int_custom_property("current_model_id") == 7
    assert [path.name for path in Path(blessed.uri).iterdir()] == ["BLESSED"]


def test_missed_thresholds_are_listed_and_prevent_the_blessing(tmp_path):
    evaluation, blessed, _ = judge(
        tmp_path, {"psnr": 18.25, "fid": 9.0}, {"psnr": {"min": 21.0}, "fid": {"max": 5}}
    )
    assert not evaluation["blessed"]
    assert [failure["reason"] for failure in evaluation["failed_thresholds"]] == [
        "psnr 18.25 is below 21",
        "fid 9 is above 5",
    ]
    assert not model_utils.is_model_blessed(blessed)
    assert [path.name for path in Path(blessed.uri).iterdir()] == ["NOT_BLESSED"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("thresholds", [{"fid": {"max": 5.0}}, {"fid": {"min": 0.0}}, {"psnr": {"min": 1.0}}])
def test_non_finite_metric_is_not_blessed(tmp_path, value, thresholds):
    evaluation, blessed, _ = judge(tmp_path, {"fid": value, "psnr": 2.0}, thresholds)
    assert not model_utils.is_model_blessed(blessed)
    assert evaluation["metrics"]["fid"] is None
    assert "fid is not a finite number" in [failure["reason"] for failure in evaluation["failed_thresholds"]]


@pytest.mark.parametrize("thresholds", [{}, {"fid": {}}, {"fid": {"min": None, "max": None}}])
def test_no_bound_blesses_every_finite_metric(tmp_path, thresholds):
    evaluation, _, _ = judge(tmp_path, {"fid": 1.0}, thresholds)
    assert evaluation["blessed"]


def test_no_threshold_blesses_even_what_is_not_finite(tmp_path):
    evaluation, blessed, _ = judge(tmp_path, {"fid": math.nan}, {})
    assert evaluation["blessed"]
    assert model_utils.is_model_blessed(blessed)


def test_threshold_on_an_absent_metric_fails_with_what_it_needs(tmp_path):
    thresholds = {"class_accuracy": {"min": 0.8}, "fid": {"max": 5.0}}
    evaluation, blessed, _ = judge(tmp_path, {"fid": 1.0}, thresholds)
    assert not model_utils.is_model_blessed(blessed)
    assert [failure["reason"] for failure in evaluation["failed_thresholds"]] == [
        "class_accuracy was not measured, it needs images with classes"
    ]


@pytest.mark.parametrize(
    ("metric", "value", "blessed"),
    [
        ("psnr", 21.75, True),  # 0.25 dB worse
        ("psnr", 21.5, False),
        ("psnr", 30.0, True),
        ("fid", 2.25, True),
        ("fid", 2.5, False),
        ("fid", 0.1, True),
    ],
)
def test_a_model_may_be_worse_than_the_pushed_one_by_so_much_in_its_metrics_direction(
    tmp_path, metric, value, blessed
):
    pushed = blessing.Pushed("17", {"psnr": 22.0, "fid": 2.0})
    evaluation, _, _ = judge(tmp_path, {metric: value}, {metric: {"worse_by": 0.25}}, pushed)
    assert evaluation["blessed"] == blessed
    assert evaluation["pushed"] == {"version": "17", "metrics": {"psnr": 22.0, "fid": 2.0}, "problem": ""}


def test_the_reason_has_both_values_and_the_pushed_version(tmp_path):
    evaluation, _, _ = judge(
        tmp_path, {"psnr": 21.0}, {"psnr": {"worse_by": 0.25}}, blessing.Pushed("17", {"psnr": 22.0})
    )
    (failure,) = evaluation["failed_thresholds"]
    assert failure["reason"] == "psnr 21 is worse than 22 of the pushed model 17 by 1, more than 0.25"


def test_the_first_model_is_compared_with_none_and_a_pushed_one_of_another_kind_with_nothing(tmp_path):
    thresholds = {"psnr": {"worse_by": 0.25}}
    assert judge(tmp_path / "first", {"psnr": 1.0}, thresholds)[0]["blessed"]
    unlike = blessing.Pushed("17", problem="whose classes are others")
    evaluation, _, _ = judge(tmp_path / "unlike", {"psnr": 1.0}, thresholds, unlike)
    (failure,) = evaluation["failed_thresholds"]
    assert failure["reason"] == "psnr cannot be compared with the pushed model 17, whose classes are others"


def test_only_metrics_with_a_better_direction_are_compared():
    with pytest.raises(ValueError, match=r"thresholds\.fid_eval must be min or max, got worse_by"):
        blessing.thresholds_to_json({"fid_eval": {"worse_by": 1.0}}, ["fid_eval"])
    assert blessing.compares({"fid": {"worse_by": 0.0}})
    assert not blessing.compares({"fid": {"max": 1.0, "worse_by": None}})


def test_metrics_are_also_artifact_properties(tmp_path):
    _, _, artifact = judge(tmp_path, {"psnr": 22.0}, {})
    assert artifact.get_float_custom_property("psnr") == 22.0


def test_unknown_metric_or_bound_error_lists_allowed_names():
    with pytest.raises(ValueError, match=r"thresholds must name one of l1, psnr, got 'pnsr'$"):
        blessing.thresholds_to_json({"pnsr": {"min": 1.0}}, ["psnr", "l1"])
    with pytest.raises(
        ValueError, match=r"thresholds.psnr must have the bounds min, max, worse_by, got 'mni'$"
    ):
        blessing.thresholds_to_json({"psnr": {"mni": 1.0}}, ["psnr"])
