"""What `pip install .` installs is enough to work in another folder."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "components",
    "configs",
    "serving",
    "tfx_pipeline",
    "trainers",
    "setup.py",
    "pyproject.toml",
    "README.md",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the wheel of this checkout, and nothing of the checkout itself."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, checkout / name)
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder / "wheel"),
        str(checkout),
    ]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = (folder / "wheel").iterdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    shutil.rmtree(checkout)
    return folder / "site"


def tfx_vim(installed: Path, folder: Path, *arguments: str) -> str:
    """Run the installed command line in a folder of its own; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-m", "tfx_pipeline.cli", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheel_holds_presets_templates_and_deployment_files(installed):
    for name in (
        "tfx_pipeline/configs/digits.yaml",
        "tfx_pipeline/configs/ablations/patchgan.yaml",
        "components/run_report/report.html",
        "components/run_report/charts.html",
        "components/run_report/gallery.html",
        "components/run_report/comparison.html",
        "components/run_report/page.css",
        "components/run_report/page.js",
        "serving/deploy/models.config",
        "serving/deploy/compose.yaml",
        "serving/deploy/k8s/base/deployment.yaml",
        "serving/deploy/k8s/overlays/official/deployment.yaml",
        "serving/py.typed",
    ):
        assert (installed / name).is_file(), name
    assert not (installed / "tests").exists()


@pytest.mark.slow
def test_installed_presets_config_and_plan_work_in_another_folder(installed, tmp_path):
    presets = tfx_vim(installed, tmp_path, "presets")
    assert {"digits", "imagenet256_bb", "ablations/patchgan"} <= set(presets.split())
    config = yaml.safe_load(tfx_vim(installed, tmp_path, "config", "--set", "seed=3"))
    assert (config["name"], config["seed"]) == ("digits", 3)
    assert "by Table 2" in tfx_vim(installed, tmp_path, "plan", "--preset", "imagenet256_ss")


@pytest.mark.slow
def test_installed_compile_works_in_another_folder(installed, tmp_path):
    output = tfx_vim(installed, tmp_path, "compile", "--image", "repository:tag", "--output", "pipeline.yaml")
    assert "20 tasks" in output
    assert yaml.safe_load((tmp_path / "pipeline.yaml").read_text())["schemaVersion"] == "2.1.0"


def requirements(name: str) -> set[str]:
    """The requirements of a file of `requirements/`, without comments and the files it includes."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-r"))}


def test_declared_dependencies_are_those_of_the_locks():
    """setup.py declares what common.in and the lanes ask for, each lane for its Pythons."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    (call,) = [
        node.value for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    keywords = {word.arg: word.value for word in call.keywords}
    asked = requirements("common.in")
    asked |= {f"{line}; python_version < '3.11'" for line in requirements("lane_a.in")}
    asked |= {f"{line}; python_version >= '3.11'" for line in requirements("lane_b.in")}
    assert set(ast.literal_eval(keywords["install_requires"])) == asked
    assert ast.literal_eval(keywords["python_requires"]) == ">=3.10,<3.14"


def versions(name: str) -> set[str]:
    """The releases that a lock or a file of constraints names: `keras==3.15.1`."""
    return set(re.findall(r"^[\w.-]+==[^\s;]+", (ROOT / "requirements" / name).read_text(), re.MULTILINE))


def test_constraints_have_the_versions_of_the_locks():
    """All but lane A's tensorflow-hub, which pip cannot take in the lock's version (lane_a_overrides.txt)."""
    assert versions("lane_a.txt") - versions("constraints_a.txt") == {"tensorflow-hub==0.16.1"}
    assert versions("constraints_a.txt") <= versions("lane_a.txt")
    assert versions("constraints_b.txt") == versions("lane_b.txt")


def test_image_has_the_releases_that_were_tested_and_no_tools_of_a_developer():
    tested = versions("lane_b.txt")
    assert versions("image_cpu.txt") <= tested
    assert {release.partition("==")[0] for release in versions("image_gpu.txt") - tested} >= {
        "nvidia-cudnn-cu12"
    }
    assert all(release.startswith("nvidia-") for release in versions("image_gpu.txt") - tested)
    assert versions("image_tpu.txt") - tested == {
        "libtpu==0.0.14",
        "tensorboard==2.20.0",
        "tensorflow-tpu==2.20.0",
        "tf-keras==2.20.1",
    }
    tools = {re.match(r"[\w-]+", line)[0] for line in requirements("dev.in")}
    for accelerator in ("cpu", "gpu", "tpu"):
        installed = {release.partition("==")[0] for release in versions(f"image_{accelerator}.txt")}
        assert not installed & tools, accelerator
