"""Run `tfx-vim` as a process; check its exit code and its one-line errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

TFX_VIM = Path(sys.executable).with_name("tfx-vim")


def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    # Without the TensorFlow variables that the test process sets.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    return subprocess.run(
        [TFX_VIM, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["run", "--preset", "nope"], 2, "preset must be one of celebahq256, "),
        (["run", "--set", "stage1.trian.steps=3"], 2, "unknown key stage1.trian"),
        (["run", "--set", "seed=many"], 2, "seed must be a valid integer, got 'many'"),
        (["run", "--set"], 2, "Option '--set' requires an argument."),
        (
            ["run", "--set", "evaluation.generation.thresholds.fit.max=3"],
            2,
            "metric must be one of fid, fid_eval",
        ),
        (["frobnicate"], 2, "No such command"),
        (["compile", "--image", "a:b", "--output", "pipeline.txt"], 2, "a file ending in .yaml or .yml"),
        (["run", "--set", "data.source=folder:nowhere"], 1, "nowhere"),
        (
            ["run", "--set", "stage1={savedmodel: nowhere}"],
            1,
            "must be the folder of a SavedModel, got nowhere",
        ),
        (
            ["plan", "--set", "stage1={savedmodel: nowhere}"],
            2,
            "must be the folder of a SavedModel, got nowhere",
        ),
        (["report", "--run", "nowhere"], 1, "nowhere must hold a report"),
        (["serve", "--run", "nowhere"], 1, "nowhere/serving must hold"),
        (["generate", "--endpoint", "http://localhost:1", "--output", "x.png"], 1, "no server answers"),
    ],
)
def test_error_is_one_line_with_an_exit_code(tmp_path, arguments, code, line):
    result = call(*arguments, cwd=tmp_path)
    assert result.returncode == code
    assert re.match("tfx-vim: ", result.stderr)
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(tmp_path):
    result = call("run", "--preset", "nope", "--debug", cwd=tmp_path)
    assert result.returncode != 0
    assert "Traceback" in result.stderr


def test_presets_are_listed_and_config_prints_overrides(tmp_path):
    assert "digits" in call("presets", cwd=tmp_path).stdout
    printed = yaml.safe_load(call("config", "--set", "seed=5", cwd=tmp_path).stdout)
    assert printed["seed"] == 5
    assert printed["stage1"]["model"]["codebook"]["l2_normalized"] is True


def test_compile_writes_the_pipeline_and_prints_a_summary(tmp_path):
    result = call("compile", "--image", "repo/image:1", "--output", "pipeline.yaml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "pipeline tfx-vim-digits, 16 components" in result.stdout
    assert len(yaml.safe_load((tmp_path / "pipeline.yaml").read_text())["components"]) == 16
    assert result.stderr == ""
