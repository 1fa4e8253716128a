"""Run the whole pipeline as Kubeflow's launcher does, on each kind of store, as a local run does."""

import contextlib
import json
import os
import sys
import threading
import time

import pytest

from tests import whole_run
from tests.kubeflow import launcher, stores
from tests.kubeflow.test_newest_kfp import newest_kfp
from tfx_pipeline.cli import cli
from tfx_pipeline.trainings import SERVED_AS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    cli(["compile", *whole_run.SMALL, "--image", "tfx-vim:1", "--output", str(path)], standalone_mode=False)
    return path


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return whole_run.shared(tmp_path_factory)


def scores(metrics):
    """What a run measured, without when and how fast."""
    return {name: without_times(metrics[name]) for name in ("reconstruction", "generation", "linear_probe")}


def without_times(evaluation):
    return {key: value for key, value in evaluation.items() if "second" not in key}


def local_files(home, component, output):
    (folder,) = (home / "pipeline_root" / component / output).iterdir()
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def stored_files(store, artifact):
    key = launcher.key_of(artifact["uri"])
    return {name.removeprefix(f"{key}/"): store.read(name) for name in store.keys(f"{key}/")}


def killed_in_the_middle(killed):
    """Kill the first attempt of each task as soon as it has written something of its own."""

    def watch(name, attempt, process, places):
        if attempt:
            return

        def wait():
            while process.poll() is None:
                if any(has_files(place) for place in places):
                    with contextlib.suppress(ProcessLookupError):
                        launcher.kill(process)
                        killed.append(name)
                    return
                time.sleep(0.005)

        threading.Thread(target=wait, daemon=True).start()

    return watch


def has_files(place):
    return place.is_file() or any(files for _, _, files in os.walk(place))


@pytest.mark.parametrize(
    ("scheme", "release", "killing"),
    [
        ("minio", "2.17", False),
        pytest.param("s3", "2.5", False, marks=pytest.mark.nightly),
        pytest.param("gs", "master", True, marks=pytest.mark.nightly),
    ],
)
def test_a_run_on_the_cluster_equals_a_local_one(tmp_path, compiled, local, scheme, release, killing):
    killed = []
    with stores.serve(scheme) as store:
        cluster = launcher.Cluster(store, scheme, launcher.RELEASES[release], tmp_path, retries=int(killing))
        done = cluster.run(compiled, watch=killed_in_the_middle(killed) if killing else None)
        if killing:
            # A task that ends at once after its first file may escape; few do.
            assert len(killed) >= 12
            assert {name for name, one in done.items() if one.attempts == 2} <= set(killed)
        assert {one.state for one in done.values()} == {"COMPLETE"}

        tokens = stored_files(store, done["TokenTransform"].outputs["examples"])
        assert tokens == local_files(local, "TokenTransform", "examples")
        place = launcher.key_of(done["Pusher-vim"].outputs["pushed_model"]["uri"]).partition("/Pusher-vim/")[
            0
        ]
        run = {key.removeprefix(f"{place}/run/"): key for key in store.keys(f"{place}/run/")}
        measured = json.loads(store.read(run["metrics.json"]))
        assert scores(measured) == scores(json.loads((local / "metrics.json").read_text()))
        assert b"<html" in store.read(launcher.key_of(done["RunReport"].outputs["page"]["uri"]))
        shown = done["ReconstructionEvaluator"].outputs["metrics"]
        assert shown["metadata"]["psnr"] == measured["reconstruction"]["psnr"]
        for name, model in SERVED_AS.items():
            task = f"Pusher-{name}"
            version = done[task].outputs["pushed_model"]["metadata"]["pushed_version"]
            assert f"serving/{model}/{version}/saved_model.pb" in run
        # Markers break downloads. Those in the run's folder, which pyarrow leaves on S3, it reads itself.
        assert not [key for key in store.keys("") if key.endswith("/") and "/run/" not in key]

        if not killing:
            again = cluster.run(compiled)
            ran = {name for name, one in again.items() if one.state == "COMPLETE"}
            assert ran == {"Pusher-tokenizer", "Pusher-classifier", "Pusher-vim", "RunReport"}


@pytest.mark.nightly
def test_a_run_of_the_newest_kfp_on_this_machine_equals_a_local_one(tmp_path, compiled, local):
    newest_kfp("run", compiled, tmp_path / "root", sys.executable)
    (home,) = (tmp_path / "root").iterdir()
    examples = home / "TokenTransform" / "examples"
    written = {
        path.relative_to(examples).as_posix(): path.read_bytes()
        for path in examples.rglob("*")
        if path.is_file()
    }
    assert written == local_files(local, "TokenTransform", "examples")
    measured = json.loads((home / "run" / "metrics.json").read_text())
    assert scores(measured) == scores(json.loads((local / "metrics.json").read_text()))
    for model in SERVED_AS.values():
        assert list((home / "run" / "serving" / model).glob("*/saved_model.pb"))
