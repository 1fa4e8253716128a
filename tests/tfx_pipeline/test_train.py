"""`tfx-vim train`: one training of a run, outside of the pipeline."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from tests.trainers.examples import write_images
from tfx_pipeline import config as configuration
from tfx_pipeline import train, trainings
from tfx_pipeline.cli import cli
from tfx_pipeline.config import ConfigError
from tfx_pipeline.pipeline import create_pipeline
from tfx_pipeline.versions import Versions

PRESET = ("--preset", "digits", "--small", "--set", "data.image_size=16")


def start(folder, *more, index=None):
    """Start a training of the tokenizer; the index comes as Kubernetes sends it."""
    given = ("--examples", folder / "images", "--run", folder / "run", *more)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if index is not None:
        environment[train.INDEX] = str(index)
    return subprocess.Popen(
        [sys.executable, "-m", "tfx_pipeline.cli", "train", "tokenizer", *PRESET, *map(str, given)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    return output


@pytest.mark.slow
def test_two_hosts_train_and_a_run_in_the_same_folder_only_exports(tmp_path):
    write_images(tmp_path / "images", records=40)
    with socket.socket() as one, socket.socket() as other:
        one.bind(("localhost", 0))
        other.bind(("localhost", 0))
        workers = ",".join(f"localhost:{each.getsockname()[1]}" for each in (one, other))
    together = ("--output", tmp_path / "job", "--workers", workers)
    hosts = [start(tmp_path, *together, index=index) for index in range(2)]
    first, *_ = [finish(host) for host in hosts]
    assert "resuming" not in first
    assert sorted(path.name for path in (tmp_path / "job").iterdir()) == ["model", "model_run"]

    # What the pipeline's Trainer does, with the arguments that it gets.
    said = finish(start(tmp_path, "--output", tmp_path / "trainer"))
    assert re.search(r"tokenizer: resuming from step (\d+) of \1$", said, re.MULTILINE)
    histories = [tmp_path / name / "model_run" / "history.jsonl" for name in ("job", "trainer")]
    assert histories[0].read_text() == histories[1].read_text()
    assert (tmp_path / "trainer" / "model" / "saved_model.pb").is_file()


@pytest.mark.parametrize("name", ["tokenizer", "classifier", "vim"])
def test_it_gets_what_the_pipelines_trainer_gets(name):
    config = configuration.load("digits")
    pipeline = create_pipeline(config, run_dir="/run", versions=Versions("1"))
    (trainer,) = (one for one in pipeline.components if one.id == f"Trainer-{name}")
    given = json.loads(trainer.exec_properties["custom_config"])
    assert given == trainings.custom_config(config, name, "/run")


def test_a_printed_configuration_is_a_preset_for_the_same_training(tmp_path):
    """Jobs on Kubernetes have the configuration as a file."""
    config = configuration.load("digits", ["stage1.train.steps=30", "stage1.train.optimizer.warmup_steps=3"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude={"platform"}), sort_keys=False))
    again = configuration.load(str(file))
    for name in trainings.of(config):
        one, other = (trainings.custom_config(each, name, "/run") for each in (config, again))
        assert one["stage"] == other["stage"]
        jobs = [json.loads(each["job"]) for each in (one, other)]
        for job in jobs:
            del job["label"]  # for people
        assert jobs[0] == jobs[1]


def test_missing_inputs_are_named(tmp_path):
    config = configuration.load("digits")
    given = {"run": str(tmp_path / "run"), "output": str(tmp_path / "output")}
    with pytest.raises(
        ConfigError, match=r"--examples must be an artifact with dataset\.json, got /nowhere$"
    ):
        train.train(config, "tokenizer", examples="/nowhere", base_model=None, **given)
    write_images(tmp_path / "images")
    with pytest.raises(ConfigError, match=r"--tokenizer must be the folder of a SavedModel, got /nowhere$"):
        train.train(config, "vim", examples=str(tmp_path / "images"), base_model="/nowhere", **given)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize("index", [None, -1, 2])
def test_a_host_that_is_none_of_the_workers_is_refused(index, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "")
    with pytest.raises(ConfigError, match=rf"--worker-index must be in \[0, 2\), got {index}"):
        train.join(["a:1", "b:1"], index)


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("vim", (), "--tokenizer must be given for vim alone, got None for vim"),
        ("tokenizer", ("--tokenizer", "/t"), "--tokenizer must be given for vim alone, got /t for tokenizer"),
        (
            "tokenizer",
            ("--set", "stage1={savedmodel: /t}"),
            "NAME must be one of classifier, vim, got tokenizer",
        ),
        (
            "classifier",
            ("--set", "classifier={network: ResNet50}"),
            "NAME must be one of tokenizer, vim, got classifier",
        ),
    ],
)
def test_wrong_use_is_one_line(name, more, said):
    given = ["train", name, *PRESET[:2], "--examples", "/e", "--run", "/r", "--output", "/o", *more]
    done = CliRunner().invoke(cli, given, standalone_mode=False)
    assert said in str(done.exception)
