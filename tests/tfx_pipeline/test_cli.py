"""Run `tfx-vim` as a process; check its exit code and its one-line errors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tests.components.image_example_gen import pictures
from tfx_pipeline import local_runner
from tfx_pipeline.cli import cli

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
            "metric must be one of fid, fid_matched, fid_eval",
        ),
        (["frobnicate"], 2, "No such command"),
        (["compile", "--image", "a:b", "--output", "pipeline.txt"], 2, "a file ending in .yaml or .yml"),
        (["run", "--set", "data.source=folder:nowhere"], 1, "nowhere must be a folder, got a missing path"),
        (["data", "folder:nowhere", "--sheet", "x.jpg"], 1, "output must end in .png, got x.jpg"),
        (
            ["compile", "--image", "a:b", "--output", "p.yaml", "--set", "data.source=folder:nowhere"],
            1,
            "if only the cluster can read it, name its version with --dataset-version",
        ),
        (
            ["run", "--set", "stage1={savedmodel: nowhere}"],
            1,
            "must be the folder of a SavedModel, got nowhere",
        ),
        (
            ["plan", "--set", "stage1={savedmodel: nowhere}"],
            1,
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


@pytest.mark.parametrize(
    ("given", "forced"),
    [
        ([], ()),
        (["--no-cache"], ("ALL",)),
        (["--no-cache", "--small"], ("ALL",)),
        (["--no-cache", "Trainer-vim", "--no-cache", "RunReport"], ("Trainer-vim", "RunReport")),
    ],
)
def test_no_cache_takes_a_component_or_none(tmp_path, monkeypatch, given, forced):
    def stop(config, directory, beam_args, *, no_cache):
        raise local_runner.RunError(f"asked for {no_cache}")

    monkeypatch.setattr(local_runner, "run", stop)
    result = CliRunner().invoke(cli, ["run", "--output", str(tmp_path), *given])
    assert f"asked for {forced}" in result.output


WITHOUT_TENSORFLOW = (
    "import sys; from tfx_pipeline import cli; sys.argv[1:] = {arguments!r}\n"
    "try: cli.main()\n"
    "except SystemExit as stop: print(stop.code, 'tensorflow' in sys.modules, 'tfx' in sys.modules)"
)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--set", "data.source=folder:nowhere"],
        ["run", "--set", "evaluation.generation.thresholds.fit.max=3"],
        ["run", "--output", "what?"],
        ["data", "csv:nowhere"],
        ["compile", "--image", "a:b", "--output", "p.yaml", "--set", "data.source=folder:nowhere"],
        ["serve", "--run", "nowhere", "--port", "0", "--rest-api-port", "0"],
        ["generate", "--run", "nowhere", "--output", "x.png"],
        ["compare", "nowhere", "elsewhere"],
        ["report", "--run", "nowhere"],
    ],
)
def test_mistake_is_told_before_tensorflow_is_imported(tmp_path, arguments):
    program = WITHOUT_TENSORFLOW.format(arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    code, *imported = done.stdout.split()
    assert int(code) > 0
    assert imported == ["False", "False"]


def test_version_is_told(tmp_path):
    assert re.fullmatch(r"tfx-vim \d+\.\d+.*\n", call("--version", cwd=tmp_path).stdout)


def test_debug_shows_the_traceback(tmp_path):
    result = call("run", "--preset", "nope", "--debug", cwd=tmp_path)
    assert result.returncode != 0
    assert "Traceback" in result.stderr


def test_presets_are_listed_and_config_prints_overrides(tmp_path):
    assert "digits" in call("presets", cwd=tmp_path).stdout
    printed = yaml.safe_load(call("config", "--set", "seed=5", cwd=tmp_path).stdout)
    assert printed["seed"] == 5
    assert printed["stage1"]["model"]["codebook"]["l2_normalized"] is True


def test_data_prints_lines_or_one_object_and_exits_with_1_for_a_problem(tmp_path):
    for name in ("cat/1.png", "dog/1.png", "dog/2.png"):
        pictures.write(tmp_path / "photos" / name)
    fixed = ["--set", "data.splits={train: 1, eval: 1000000}"]
    result = call("data", "folder:photos", "--json", "--sheet", "sheet.png", *fixed, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "")
    found = json.loads(result.stdout)
    assert found["classes"] == ["cat", "dog"]
    assert found["splits"] == {"train": 0, "eval": 3}
    assert [problem.partition(",")[0] for problem in found["problems"]] == [
        "every class must have an image in the split train",
        "split train must have an image",
    ]
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    result = call("data", "digits", cwd=tmp_path)
    assert result.returncode == 0
    assert "images      1611 train, 186 eval" not in result.stdout  # the preset's own shares
    assert "classes     10: 0, 1, 2, 3, 4, 5, 6, 7, ..." in result.stdout


def test_compile_takes_the_version_of_images_that_it_cannot_read(tmp_path):
    arguments = ["--image", "a:b", "--output", "pipeline.yaml", "--set", "data.source=folder:nowhere"]
    result = call("compile", *arguments, "--dataset-version", "2026-11", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2026-11" in (tmp_path / "pipeline.yaml").read_text()


def test_compile_takes_the_versions_of_networks_that_it_cannot_read(tmp_path):
    network, weights = "inception_2015:/nowhere.pb", "/nowhere.weights.h5"
    settings = {
        "stage1": "{savedmodel: /nowhere}",
        "classifier": f"{{network: ResNet50, weights: {weights}}}",
        "evaluation.features": network,
        "evaluation.reconstruction.lpips": "/nowhere",
    }
    options = ("--tokenizer-version", "--classifier-version", "--features-version", "--lpips-version")
    given = ["--image", "a:b", "--output", "pipeline.yaml"]
    for setting, option in zip(settings.items(), options, strict=True):
        given += ["--set", "=".join(setting)]
        refused = call("compile", *given, cwd=tmp_path)
        assert refused.returncode == 1
        assert option in refused.stderr.splitlines()[-1]
        given += [option, f"of{option}"]
    result = call("compile", *given, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    compiled = (tmp_path / "pipeline.yaml").read_text()
    assert all(f"of{option}" in compiled for option in options)


def test_compile_writes_a_part_of_the_pipeline_and_jobs_of_its_trainings(tmp_path):
    """Beside what images and tokenizer come from, the check that a Trainer waits for without reading it."""
    given = ("--image", "repo/image:1", "--output", "pipeline.yaml", "--run", "/mnt/run")
    result = call("compile", *given, "--to", "Trainer-tokenizer", "--trainer-jobs", "jobs", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    tasks = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())["root"]["dag"]["tasks"]
    upstream = {"ImageExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator"}
    assert set(tasks) == {*upstream, "Trainer-tokenizer"}
    names = [f"jobs/Trainer-{name}.yaml" for name in ("tokenizer", "classifier", "vim")]
    assert result.stdout.splitlines()[1:] == names
    assert all((tmp_path / name).is_file() for name in names)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--to", "Trainer-vin"], "got Trainer-vin; did you mean Trainer-vim?"),
        (["--trainer-jobs", "jobs"], "--run must be given with --trainer-jobs"),
        (["--trainer-jobs", "jobs", "--run", "s3://bucket/r"], "run must be gs://BUCKET/FOLDER or a path"),
    ],
)
def test_compile_refuses_a_part_or_jobs_that_cannot_be_and_writes_nothing(tmp_path, more, said):
    result = call("compile", "--image", "repo/image:1", "--output", "pipeline.yaml", *more, cwd=tmp_path)
    assert result.returncode == 2
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_compile_writes_the_pipeline_and_prints_a_summary(tmp_path):
    result = call("compile", "--image", "repo/image:1", "--output", "pipeline.yaml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "pipeline tfx-vim-digits, 20 tasks" in result.stdout
    assert len(yaml.safe_load((tmp_path / "pipeline.yaml").read_text())["components"]) == 20
    assert result.stderr == ""
