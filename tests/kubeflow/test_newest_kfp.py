"""The newest release of kfp loads the compiled files, knows all of their fields, and runs one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kubeflow.launcher import HERE, REPOSITORY
from tests.tfx_pipeline.kubeflow.test_compiler import compile_pipeline, three_tasks, whole_graph
from tests.tfx_pipeline.kubeflow.test_platform import FULL
from tfx_pipeline import config
from tfx_pipeline.kubeflow.platform import Platform

# Built by `make setup` (requirements/venv.sh).
PYTHON = Path(sys.prefix) / "kfp" / "bin" / "python"


def newest_kfp(*arguments):
    done = subprocess.run(
        [PYTHON, HERE / "newest_kfp.py", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_knows_every_field_of_every_preset(tmp_path):
    files = [tmp_path / f"{name.replace('/', '-')}.yaml" for name in config.presets()]
    for name, file in zip(config.presets(), files, strict=True):
        compile_pipeline(whole_graph(preset=name), file)
    newest_kfp("check", *files)


def test_it_knows_every_field_of_the_platform_document(tmp_path):
    compile_pipeline(three_tasks(), tmp_path / "pipeline.yaml", pods=Platform.model_validate(FULL))
    newest_kfp("check", tmp_path / "pipeline.yaml")


@pytest.mark.slow
def test_it_runs_connected_components_on_this_machine(tmp_path):
    compile_pipeline(three_tasks(), tmp_path / "pipeline.yaml")
    newest_kfp("run", tmp_path / "pipeline.yaml", tmp_path / "root", sys.executable)
    (run,) = (tmp_path / "root").iterdir()
    assert (run / "ModelValidator" / "blessing" / "INFRA_BLESSED").exists()
    assert list((run / "run" / "serving" / "model").glob("*/saved_model.pb"))
