"""Run connected components through the entry point, as the launcher of each release starts it."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tfx.dsl.components.base import base_executor

from tests.kubeflow import launcher, stores
from tests.tfx_pipeline.small_graph import small_graph
from tfx_pipeline.kubeflow import addresses, compiler, entrypoint
from tfx_pipeline.kubeflow.parameters import DATASET_VERSION, RUN_FOLDER, SEED, SERVING_FOLDER, STAND_INS
from tfx_pipeline.kubeflow.task import Task

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    defaults = {RUN_FOLDER: "", SERVING_FOLDER: "", DATASET_VERSION: "", SEED: 0}
    compiler.compile_pipeline(
        small_graph(STAND_INS[SERVING_FOLDER]), "tfx-vim:1", str(path), defaults=defaults
    )
    return path


# The whole pipeline runs on the other pairs: tests/kubeflow/test_whole_pipeline.py.
@pytest.mark.parametrize(("scheme", "release"), [("gs", "2.4"), ("minio", "2.5"), ("s3", "master")])
def test_components_receive_upstream_artifacts(tmp_path, compiled, scheme, release):
    with stores.serve(scheme) as served:
        check_a_run_and_another(served, scheme, release, compiled, tmp_path)


def check_a_run_and_another(served, scheme, release, compiled, tmp_path):
    folder = f"{scheme}://{stores.BUCKET}/runs/{release}"
    cluster = launcher.Cluster(served, scheme, launcher.RELEASES[release], tmp_path)
    done = cluster.run(compiled, {SERVING_FOLDER: folder})

    assert done["Writer"].outputs["model"]["metadata"]["classes"] == 2
    blessing = done["ModelValidator"].outputs["blessing"]
    assert blessing["metadata"]["blessed"] == 1
    written = served.keys(launcher.key_of(blessing["uri"]) + "/")
    assert [os.path.basename(key) for key in written] == ["INFRA_BLESSED", "checks.json"]
    pushed = done["Pusher"].outputs["pushed_model"]["metadata"]
    assert pushed["pushed"] == 1
    # The address by which others find it, not the pod's path.
    assert pushed["pushed_destination"] == f"{folder}/model/{pushed['pushed_version']}"
    assert served.read(launcher.key_of(f"{pushed['pushed_destination']}/saved_model.pb"))

    again = cluster.run(compiled, {SERVING_FOLDER: folder})
    assert {name: one.state for name, one in again.items()} == {
        "Writer": "CACHED",
        "ModelValidator": "CACHED",
        "Pusher": "COMPLETE",
    }
    version = again["Pusher"].outputs["pushed_model"]["metadata"]["pushed_version"]
    assert int(version) > int(pushed["pushed_version"])
    assert served.read(launcher.key_of(f"{folder}/model/{pushed['pushed_version']}/saved_model.pb"))


def test_a_component_prints_what_it_does_and_no_noise(tmp_path, compiled):
    with stores.serve("minio") as served:
        cluster = launcher.Cluster(served, "minio", launcher.RELEASES["2.17"], tmp_path)
        done = cluster.run(compiled)
    logs = done["Pusher"].outputs[launcher.LOGS]["uri"]
    assert logs.startswith("minio://")
    for execution in done.values():
        for noise in ("TensorRT", "cuda", "Warning", "oneDNN", "Traceback"):
            assert noise not in execution.log


def container(compiled, name):
    specification = yaml.safe_load(compiled.read_text())
    return specification["deploymentSpec"]["executors"][f"exec-{name}"]["container"]


def sent_to_writer(folder, **parameters):
    """What a launcher without object store, kfp.local's, sends to the first task."""
    return {
        "inputs": {"parameterValues": {"classes": 2.0, **parameters}},
        "outputs": {
            "artifacts": {"model": {"artifacts": [{"uri": f"{folder}/Writer/model", "type": {}}]}},
            "outputFile": f"{folder}/output.json",
        },
    }


def run_writer(compiled, sent):
    arguments = [text.replace("{{$}}", json.dumps(sent)) for text in container(compiled, "Writer")["args"]]
    entrypoint.main(arguments)


def test_paths_need_no_object_store(tmp_path, compiled):
    run_writer(compiled, sent_to_writer(tmp_path))
    (model,) = json.loads((tmp_path / "output.json").read_text())["artifacts"]["model"]["artifacts"]
    assert model["uri"] == f"{tmp_path}/Writer/model"
    assert model["metadata"] == {"classes": 2}


def test_a_failing_component_ends_its_log_with_the_reason_and_writes_no_outputs(tmp_path, compiled, capfd):
    with pytest.raises(SystemExit) as stop:
        run_writer(compiled, sent_to_writer(tmp_path, classes=3.0))
    assert stop.value.code == "Writer failed: classes must be 2, got 3"  # Python prints it, and exits with 1
    assert "Traceback" in capfd.readouterr().err
    assert not (tmp_path / "output.json").exists()


def test_a_folder_that_no_pod_could_reach_fails_before_the_component_runs(tmp_path, compiled):
    task = Task.from_json(container(compiled, "Pusher")["args"][1])
    sent = {
        "inputs": {"parameterValues": {"pipelinechannel--run_folder": "gs://BUCKET/x"}},
        "outputs": {
            "artifacts": {"pushed_model": {"artifacts": [{"uri": f"{tmp_path}/Pusher/pushed_model"}]}},
            "outputFile": f"{tmp_path}/output.json",
        },
    }
    with pytest.raises(ValueError, match="run_folder must be gs://BUCKET/FOLDER"):
        entrypoint.run(task, sent, [])
    assert not (tmp_path / "output.json").exists()


def test_a_folder_around_the_artifacts_is_refused_or_they_would_be_uploaded_twice(tmp_path, compiled):
    task = Task.from_json(container(compiled, "Pusher")["args"][1])
    sent = {
        "inputs": {"parameterValues": {"pipelinechannel--run_folder": f"{tmp_path}"}},
        "outputs": {
            "artifacts": {
                "pushed_model": {"artifacts": [{"uri": f"{tmp_path}/serving/p/Pusher/pushed_model"}]}
            },
            "outputFile": f"{tmp_path}/output.json",
        },
    }
    # That of the pusher is below the run's.
    sent["inputs"]["parameterValues"]["pipelinechannel--serving_folder"] = ""
    with pytest.raises(ValueError, match="run_folder must not contain the artifacts"):
        entrypoint.run(task, sent, [])


class ReadingExecutor(base_executor.BaseExecutor):
    """Executor that copies a file of the pushed model, and keeps one in the run's folder."""

    def Do(self, input_dict, output_dict, exec_properties):
        (model,) = output_dict["model"]
        found = Path(exec_properties["pushed"], "7", "saved_model.pb").read_bytes()
        Path(model.uri, "found").write_bytes(found)
        kept = Path(exec_properties["kept"])
        kept.mkdir(parents=True)
        (kept / "step").write_text("1")


def test_a_task_reads_the_pushed_model_and_keeps_its_own_files_in_the_runs_folder(tmp_path, monkeypatch):
    sent = {
        "inputs": {
            "parameterValues": {
                "pushed": f"{STAND_INS[SERVING_FOLDER]}/vim",
                "kept": f"{STAND_INS[RUN_FOLDER]}/checkpoints/samples",
                "pipelinechannel--run_folder": f"s3://{stores.BUCKET}/run",
                "pipelinechannel--serving_folder": f"s3://{stores.BUCKET}/served",
            }
        },
        "outputs": {
            "artifacts": {"model": {"artifacts": [{"uri": f"{tmp_path}/Reader/model", "type": {}}]}},
            "outputFile": f"{tmp_path}/output.json",
        },
    }
    task = Task(
        name="Reader",
        executor=f"{__name__}.ReadingExecutor",
        inputs={},
        outputs={"model": "tfx.Model"},
        parameters={},
        folders=("checkpoints/samples",),
        reads=("vim",),
    )
    with stores.serve("s3") as served:
        for key, value in {**served.environment, "no_proxy": "127.0.0.1"}.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setattr(addresses, "MOUNTS", {"s3": f"{tmp_path}/disk"})
        served.write("served/vim/7/saved_model.pb", b"pushed")
        entrypoint.run(Task.from_json(task.to_json()), sent, [])
        assert (tmp_path / "Reader" / "model" / "found").read_bytes() == b"pushed"
        assert served.keys("") == ["run/checkpoints/samples/step", "served/vim/7/saved_model.pb"]


def test_a_push_takes_less_than_five_seconds_of_processor_time(tmp_path, compiled):
    """Of which TensorFlow's import is three; with all of TFX's components it was nine."""
    run_writer(compiled, sent_to_writer(tmp_path))
    inputs = {
        "model": {"uri": f"{tmp_path}/Writer/model"},
        "infra_blessing": {"uri": str(tmp_path), "metadata": {"blessed": 1}},
    }
    task = Task.from_json(container(compiled, "Pusher")["args"][1])
    constants = yaml.safe_load(compiled.read_text())["root"]["dag"]["tasks"]["Pusher"]["inputs"]["parameters"]
    sent = {
        "inputs": {
            "parameterValues": {
                "push_destination": constants["push_destination"]["runtimeValue"]["constant"],
                "pipelinechannel--run_folder": str(tmp_path / "run"),
                "pipelinechannel--serving_folder": "",
            },
            "artifacts": {key: {"artifacts": [one]} for key, one in inputs.items()},
        },
        "outputs": {
            "artifacts": {"pushed_model": {"artifacts": [{"uri": f"{tmp_path}/Pusher/pushed_model"}]}},
            "outputFile": f"{tmp_path}/output.json",
        },
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "tfx_pipeline.kubeflow.entrypoint", "--task", task.to_json()]
    subprocess.run([*command, "--executor-input", json.dumps(sent)], cwd=launcher.REPOSITORY, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert json.loads((tmp_path / "output.json").read_text())
    assert len(os.listdir(tmp_path / "run" / "serving" / "model")) == 1
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"a push took {used:.1f} s")
    # A loaded machine takes twice the time for the same work.
    assert used < 10
