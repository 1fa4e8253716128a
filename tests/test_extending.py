"""The examples of docs/extending.md, applied to a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATCHES = re.findall(r"^```diff\n(.*?)^```$", (ROOT / "docs" / "extending.md").read_text(), re.M | re.S)
COPIED = (
    "README.md",
    "CONTRIBUTING.md",
    "benchmarks",
    "components",
    "configs",
    "docs",
    "pyproject.toml",
    "serving",
    "tests",
    "tfx_pipeline",
    "trainers",
)


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the checkout with every patch of the page applied."""
    copy = tmp_path_factory.mktemp("extended")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    for patch in PATCHES:
        applied = subprocess.run(["git", "apply", "-"], cwd=copy, input=patch, text=True, capture_output=True)
        assert applied.returncode == 0, f"{applied.stderr}\n{patch}"
    return copy


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_patches_of_the_page_apply_and_their_tests_pass(extended):
    assert len(PATCHES) == 8
    wanted = "gradient_l1 or lfq or kind_has_a_layer or metric_is_documented"
    files = ("tests/components/metrics", "tests/trainers/vit_vqgan", "tests/test_docs.py")
    output = run(extended, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "-k", wanted, *files)
    for test in ("gradient_l1_", "lfq_lookup", "configurable_kind_has", "metric_is_documented"):
        assert re.search(rf"::test_\w*{test}\w* PASSED", output), output


@pytest.mark.slow
def test_new_metric_and_quantizer_are_configurable(extended):
    output = run(
        extended,
        "-m",
        "tfx_pipeline.cli",
        "config",
        "--set",
        "evaluation.reconstruction.thresholds={gradient_l1: {max: 1.0}}",
        "--set",
        "stage1.model.codebook={kind: lfq, dim: 7}",
    )
    assert "gradient_l1" in output
    assert "kind: lfq" in output
