from pathlib import Path

import pytest

from tests.components.image_example_gen import pictures
from tfx_pipeline import run_lock
from tfx_pipeline.config import load
from tfx_pipeline.preflight import RunError, check_inputs, check_run
from tfx_pipeline.run_lock import RunningError


def check(*overrides: str) -> None:
    check_inputs(load("digits", overrides))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.source=folder:nowhere", r"^folder:/.*/nowhere must be a folder, got a missing path$"),
        ("data.source=folder:photo.png", r"^folder:/.*/photo\.png must be a folder, got a file$"),
        ("data.source=huggingface:nowhere", "huggingface:.* must be a folder, got a missing path"),
        ("data.source=csv:nowhere.csv", "csv:.* must be a file, got a missing path"),
        ("data.source=csv:photos", "csv:.* must be a file, got a folder"),
        ("data.source=tar:*.tar", r"tar:.*\*\.tar must match a file, got none"),
        ("stage1={savedmodel: photos}", "stage1.savedmodel must be the folder of a SavedModel, got photos"),
        (
            "classifier={network: ResNet50, weights: photos}",
            r"classifier\.weights must be a file that exists, got photos",
        ),
        (
            "classifier={network: ResNet50, classes: names.txt}",
            r"classifier\.classes must be a file that exists, got names\.txt",
        ),
    ],
)
def test_missing_inputs_are_named(tmp_path, monkeypatch, override, message):
    monkeypatch.chdir(tmp_path)
    pictures.write(tmp_path / "photo.png")
    (tmp_path / "photos").mkdir()
    with pytest.raises(RunError, match=message):
        check(override)


def test_perceptual_network_must_be_there_to_run_and_not_to_compile(tmp_path):
    overrides = ["stage1.loss.perceptual=0.1", "stage1.perceptual.network=savedmodel:nowhere"]
    check(*overrides)
    with pytest.raises(RunError, match=r"stage1\.perceptual\.network must be the folder of a SavedModel"):
        check_run(load("digits", overrides), tmp_path)


@pytest.mark.parametrize(
    "flags",
    [
        ["--runner=DaskRunner"],
        ["--runner=apache_beam.runners.dask.dask_runner.DaskRunner"],
        ["--run=DaskRunner"],
        ["--runner", "DaskRunner"],
    ],
)
def test_a_runner_that_mixes_the_outputs_of_a_step_is_refused(tmp_path, flags):
    check_run(load("digits"), tmp_path, ["--runner=FnApiRunner", "--requirements_file=dask.txt"])
    with pytest.raises(RunError, match="keeps the outputs of a step apart, got Dask's"):
        check_run(load("digits"), tmp_path, flags)
    with pytest.raises(RunError, match="got Dask's"):
        check_run(load("digits", ["beam.steps={TokenTransform: [--runner=DaskRunner]}"]), tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "digits",
        "folder:a [1]",
        "tar:a [1]/*.tar",
        "tar:a [1]/x.tar",
        "csv:a [1]/x.tar",
        "tfds:mnist",
        "folder:gs://b/c",
    ],
)
def test_what_is_there_or_cannot_be_known_passes(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a [1]").mkdir()
    (tmp_path / "a [1]" / "x.tar").touch()
    check(f"data.source={source}")


def test_folder_in_use_is_refused(tmp_path):
    with run_lock.hold(tmp_path), pytest.raises(RunningError, match="one run at a time"):
        check_run(load("digits"), tmp_path)
    check_run(load("digits"), tmp_path)


def test_killed_run_is_left_for_the_next_to_be_told(tmp_path):
    left = '{"host": "here", "process": 1, "since": "", "component": "Trainer-vim"}'
    (tmp_path / run_lock.FILE).write_text(left)
    check_run(load("digits"), tmp_path)
    assert Path(tmp_path, run_lock.FILE).read_text() == left
