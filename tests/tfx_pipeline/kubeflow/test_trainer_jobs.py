"""Manifests of trainings outside of the pipeline, held against Kubernetes' and Kubeflow Trainer's schemas."""

import json

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api import models
from kubernetes_validate.utils import SchemaNotFoundError

from tests.tfx_pipeline.kubeflow.test_platform import FULL
from tfx_pipeline import config as configuration
from tfx_pipeline import trainings
from tfx_pipeline.config import ConfigError
from tfx_pipeline.kubeflow import trainer_jobs

KUBERNETES = "1.31"
POD = {**FULL["tasks"]["Writer"], "hosts": 4, "retries": {"count": 5}}
TPU = {"type": "tpu-v5-lite-podslice", "topology": "2x4", "chips": 8}


def written(folder, tasks, *overrides, preset="digits"):
    given = [f"platform.tasks={json.dumps(tasks)}", *overrides]
    config = configuration.load(preset, given)
    trainer_jobs.check(config, "gs://bucket/run")
    paths = trainer_jobs.write(config, str(folder), image="tfx-vim:1", run="gs://bucket/run")
    manifests = {}
    for path in paths:
        with open(path) as file:
            manifests[path.rpartition("/")[2]] = list(yaml.safe_load_all(file))
    return manifests


def check(manifest):
    """Hold a manifest against its schema, strictly."""
    if not manifest["apiVersion"].startswith("trainer."):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        return
    known = {
        "TrainJob": models.TrainerV1alpha1TrainJob,
        "TrainingRuntime": models.TrainerV1alpha1TrainingRuntime,
    }
    read = known[manifest["kind"]].from_dict(manifest)
    # Unknown keys are dropped in reading.
    assert read.to_dict() == manifest


@pytest.fixture
def hosts(tmp_path):
    return written(tmp_path, {"Trainer-vim": POD})["Trainer-vim.yaml"]


def pod(manifests):
    (job,) = manifests[1]["spec"]["template"]["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]


@pytest.mark.parametrize(
    ("preset", "trained"),
    [
        ("digits", ["tokenizer", "classifier", "vim"]),
        ("imagenet256_bb", ["tokenizer", "vim"]),
        ("ablations/patchgan", ["tokenizer", "vim"]),
    ],
)
def test_every_manifest_fits_its_schema(tmp_path, preset, trained):
    tasks = {"Trainer-vim": POD, "Trainer-tokenizer": {"tpu": TPU, "cpu": 4}}
    files = written(tmp_path, tasks, preset=preset)
    assert set(files) == {f"Trainer-{name}.yaml" for name in trained}
    kinds = [[manifest["kind"] for manifest in manifests] for manifests in files.values()]
    others = [["ConfigMap", "TrainingRuntime", "TrainJob"]] * (len(trained) - 1)
    assert kinds == [["ConfigMap", "Job"], *others]
    for manifests in files.values():
        for manifest in manifests:
            check(manifest)
    kubernetes_validate.validate(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            **{"metadata": {"name": "pod"}, "spec": pod(files["Trainer-vim.yaml"])["spec"]},
        },
        KUBERNETES,
        strict=True,
    )


def test_the_schemas_see_a_wrong_field(hosts):
    hosts[2]["spec"]["trainer"]["nodes"] = 3
    with pytest.raises(AssertionError):
        check(hosts[2])
    with pytest.raises((kubernetes_validate.ValidationError, SchemaNotFoundError)):
        check({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": {"templates": {}}})


def test_jobs_name_their_checkpoints_as_the_compiled_pipeline_does(hosts):
    """The image has other libraries than the machine that compiles."""
    command = pod(hosts)["spec"]["containers"][0]["command"]
    job = json.loads(trainings.custom_config(configuration.load("digits"), "vim", "gs://bucket/run")["job"])
    assert command[command.index("--code") + 1] == job["code"]
    other = trainings.custom_config(configuration.load("digits"), "vim", "gs://bucket/run", "another")
    assert json.loads(other["job"]) == {**job, "code": "another"}


def test_hosts_know_each_other_by_the_names_of_a_jobset(hosts):
    command = pod(hosts)["spec"]["containers"][0]["command"]
    workers = command[command.index("--workers") + 1].split(",")
    assert workers == [f"digits-vim-node-0-{index}.digits-vim:2222" for index in range(4)]
    assert hosts[1]["spec"]["mlPolicy"]["numNodes"] == hosts[2]["spec"]["trainer"]["numNodes"] == 4
    assert hosts[1]["spec"]["template"]["spec"]["failurePolicy"]["maxRestarts"] == 5


def test_a_preempted_host_restarts_all_without_counting_as_one_of_the_retries(hosts):
    jobset = hosts[1]["spec"]["template"]["spec"]
    (rule,) = jobset["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    # The reason that Kubernetes gives a Job which its pods' failure policy has failed.
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    policy = jobset["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]
    assert {one["action"] for one in policy["rules"]} == {"FailJob"}
    assert policy["rules"][1]["onExitCodes"] == {"operator": "In", "values": [75]}


def test_pods_have_what_the_platform_section_gives(hosts):
    (container,) = pod(hosts)["spec"]["containers"]
    assert container["image"] == "registry.example:5000/tfx-vim:gpu"
    assert container["resources"]["limits"] == {"memory": "500M", "nvidia.com/gpu": "2"}
    assert container["env"][-1]["valueFrom"]["secretKeyRef"] == {"name": "keys", "key": "accesskey"}
    assert pod(hosts)["spec"]["nodeSelector"] == {"pool": "gpu"}
    assert {volume["mountPath"] for volume in container["volumeMounts"]} == {
        "/etc/tfx-vim",
        "/mnt/runs",
        "/scratch",
        "/dev/shm",
    }


@pytest.mark.parametrize(("tokens", "key"), [("cached", "tokens"), ("on_the_fly", "images")])
def test_addresses_of_artifacts_come_from_one_map(tmp_path, tokens, key):
    files = written(tmp_path, {}, f"stage2.tokens={tokens}")
    (container,) = pod(files["Trainer-vim.yaml"])["spec"]["containers"]
    references = {one["name"]: one["valueFrom"]["configMapKeyRef"] for one in container["env"]}
    assert references == {
        "TFX_VIM_EXAMPLES": {"name": "tfx-vim-inputs", "key": key},
        "TFX_VIM_TOKENIZER": {"name": "tfx-vim-inputs", "key": "tokenizer"},
    }


def test_a_slice_of_tpu_is_one_job_that_trains_on_it(tmp_path):
    _, job = written(tmp_path, {"Trainer-tokenizer": {"tpu": TPU}})["Trainer-tokenizer.yaml"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": "8"}
    assert container["command"][-3:] == ["stage1.train.strategy=tpu", "--set", "stage1.train.tpu.name=local"]
    rules = job["spec"]["podFailurePolicy"]["rules"]
    assert rules[1] == {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75]}}


@pytest.mark.parametrize(
    ("overrides", "run", "said"),
    [
        (
            [f"platform.tasks={{Trainer-vim: {json.dumps({'tpu': TPU, 'hosts': 2})}}}"],
            "gs://b/r",
            "hosts must be 1 beside tpu",
        ),
        ([], "s3://b/r", "run must be gs://BUCKET/FOLDER or a path"),
        ([], "minio://b/r", "run must be gs://BUCKET/FOLDER or a path"),
        (
            ["platform.every={hosts: 2}", "stage2.train.strategy=mirrored"],
            "/mnt/r",
            "stage2.train.strategy must be auto",
        ),
        (["platform.every={hosts: 7}"], "/mnt/r", "stage1.train.batch_size must be a multiple of 7 hosts"),
        (["stage2.train.warm_start=pushed"], "/mnt/r", "stage2.train.warm_start must be the path of weights"),
        (["name=256photos"], "/mnt/r", "name must give pods .*, got '256photos-tokenizer-node-0-0'"),
        ([f"name={'a' * 40}"], "/mnt/r", "name must give pods at most 57"),
    ],
)
def test_what_would_fail_on_the_cluster_is_refused(overrides, run, said):
    with pytest.raises(ConfigError, match=said):
        trainer_jobs.check(configuration.load("digits", overrides), run)
