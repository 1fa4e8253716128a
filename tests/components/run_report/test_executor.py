import datetime
import json

import numpy as np
import pytest
from tfx.types import Channel, standard_artifacts

from components.evaluators import files
from components.run_report.component import RunReport
from components.run_report.executor import Executor
from serving.export.atomic import write_atomic
from tests.components.evaluators import artifacts
from tests.components.run_report import sample

EVALUATIONS = ("reconstruction", "generation", "linear_probe")
RUNS = ("tokenizer_run", "classifier_run", "vim_run")


@pytest.fixture
def inputs(tmp_path):
    report = sample.report()
    made = {
        "examples": artifacts.write_examples(
            tmp_path / "examples", {"train": [], "eval": []}, report.dataset["class_names"]
        )
    }
    for name in EVALUATIONS:
        made[name] = artifacts.artifact(standard_artifacts.ModelEvaluation, tmp_path / name)
        metrics = dict(report.metrics[name])
        about = ("counts", "protocol", "seconds", "thresholds", "failed_thresholds", "blessed", "intervals")
        evaluation = {key: metrics.pop(key) for key in about if key in metrics}
        files.write_json(str(tmp_path / name / "evaluation.json"), {"metrics": metrics, **evaluation})
    files.write_arrays(str(tmp_path / "generation" / "samples.npz"), report.samples)
    files.write_arrays(str(tmp_path / "generation" / "neighbours.npz"), report.neighbours)
    for part in ("pairs", "ranked", "codes"):
        files.write_arrays(str(tmp_path / "reconstruction" / f"{part}.npz"), getattr(report, part))
    for name in RUNS:
        made[name] = artifacts.artifact(standard_artifacts.ModelRun, tmp_path / name)
        rows = [
            {"step": step, "loss": 1 / step, "eval_loss": loss}
            for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0))
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomic(str(tmp_path / name / "history.jsonl"), lines)
        files.write_json(str(tmp_path / name / "alarms.json"), [f"{name} is slow"])
    return made


def run(inputs, tmp_path, output_dir):
    report = artifacts.artifact(standard_artifacts.ModelEvaluation, tmp_path / "report")
    Executor().Do(
        artifacts.as_lists(**inputs),
        artifacts.as_lists(report=report),
        {"config": json.dumps(sample.report().config), "code": "c0de", "output_dir": output_dir},
    )


def test_what_was_imported_has_no_curves(inputs, tmp_path):
    for name in ("tokenizer_run", "classifier_run"):
        del inputs[name]
    run(inputs, tmp_path, str(tmp_path / "run"))
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert set(report["histories"]) == {"vim"}


def test_report_is_written_to_the_artifact_and_the_run_folder(inputs, tmp_path):
    run(inputs, tmp_path, str(tmp_path / "run"))
    for place in ("report", "run"):
        metrics = json.loads((tmp_path / place / "metrics.json").read_text())
        assert metrics["reconstruction"]["psnr"] == 22.5
        assert metrics["linear_probe"]["best_block"] == 2
        origin = metrics["run"]
        assert (origin["preset"], origin["code"], origin["data"]) == ("tiny", "c0de", "0123456789abcdef")
        assert origin["configuration"] == sample.report().config
        assert origin["date"].startswith(str(datetime.datetime.now(datetime.timezone.utc).date()))
        assert {"tfx-vim", "tensorflow", "keras", "tfx"} <= origin["versions"].keys()
        assert metrics["warnings"][0] == "4 held-out images are few: mind the intervals."
        assert "<title>tiny" in (tmp_path / place / "report" / "index.html").read_text()
    plain = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert [row["step"] for row in plain["histories"]["vim"]] == [1, 2, 3]
    assert plain["alarms"]["vim"] == ["vim_run is slow"]
    assert np.load(tmp_path / "run" / "report" / "samples.npz")["images"].shape == (6, 8, 8, 3)


def test_without_output_dir_only_the_artifact_is_written(inputs, tmp_path):
    before = {path.name for path in tmp_path.iterdir()}
    run(inputs, tmp_path, "")
    assert {path.name for path in tmp_path.iterdir()} - before == {"report"}


def test_component_takes_examples_evaluations_and_model_runs():
    evaluation, model_run = (
        Channel(type=kind) for kind in (standard_artifacts.ModelEvaluation, standard_artifacts.ModelRun)
    )
    node = RunReport(
        Channel(type=standard_artifacts.Examples),
        evaluation,
        evaluation,
        evaluation,
        model_run,
        model_run,
        model_run,
        config="{}",
        code="c0de",
        output_dir="runs/tiny",
    )
    assert set(node.inputs) == {"examples", *EVALUATIONS, *RUNS}
    assert node.outputs["report"].type is standard_artifacts.ModelEvaluation


@pytest.mark.parametrize(("export", "step", "nats"), [("last", 3, 2.0), ("best", 2, 1.0)])
def test_likelihood_is_that_of_the_exported_weights(inputs, tmp_path, export, step, nats):
    report = artifacts.artifact(standard_artifacts.ModelEvaluation, tmp_path / "report")
    config = {**sample.report().config, "stage2": {"train": {"export": export}}}
    properties = {"config": json.dumps(config), "code": "c0de", "output_dir": ""}
    Executor().Do(artifacts.as_lists(**inputs), artifacts.as_lists(report=report), properties)
    likelihood = json.loads((tmp_path / "report" / "metrics.json").read_text())["likelihood"]
    assert likelihood["bits_per_token"] == pytest.approx(nats / np.log(2))
    assert likelihood["guessing"] == 2.0  # of four codes
    assert likelihood["step"] == step
