"""What the section `platform` gives to pods, in both documents of the compiled file."""

import re

import pydantic
import pytest
import yaml

from tests.tfx_pipeline.small_graph import small_graph
from tfx_pipeline import config
from tfx_pipeline.config import ConfigError
from tfx_pipeline.kubeflow import compiler, platform
from tfx_pipeline.kubeflow.parameters import DATASET_VERSION, RUN_FOLDER, SEED, SERVING_FOLDER, STAND_INS
from tfx_pipeline.kubeflow.platform import Platform
from tfx_pipeline.pipeline import create_pipeline
from tfx_pipeline.versions import Versions

DEFAULTS = {RUN_FOLDER: "", SERVING_FOLDER: "", DATASET_VERSION: "", SEED: 0}
FULL = {
    "every": {
        "cpu": 2,
        "memory": "8Gi",
        "retries": {"count": 3, "wait": 10},
        "image_pull_secrets": ["registry"],
    },
    "tasks": {
        "Writer": {
            "image": "registry.example:5000/tfx-vim:gpu",
            "memory": "500M",
            "accelerator": {"count": 2},
            "node_selector": {"pool": "gpu"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "volumes": [
                {"path": "/mnt/runs", "claim": "runs"},
                {"path": "/scratch", "size": "100Gi", "storage_class": "fast"},
                {"path": "/dev/shm", "size": "1Gi", "memory": True},
            ],
            "secrets": [{"name": "keys", "env": {"AWS_ACCESS_KEY_ID": "accesskey"}}],
            "labels": {"team": "vision"},
            "deadline_seconds": 3600,
            "cache": False,
        },
        "ModelValidator": {"tpu": {"type": "tpu-v5-lite-podslice", "topology": "2x4", "chips": 8}},
    },
}


@pytest.fixture
def documents(tmp_path):
    compiler.compile_pipeline(
        small_graph(STAND_INS[SERVING_FOLDER]),
        "tfx-vim:1",
        str(tmp_path / "pipeline.yaml"),
        defaults=DEFAULTS,
        pods=Platform.model_validate(FULL),
    )
    return list(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))


def container(documents, task):
    return documents[0]["deploymentSpec"]["executors"][f"exec-{task}"]["container"]


def pod(documents, task):
    return documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{task}"]


def test_a_tasks_own_keys_come_before_those_of_every_task(documents):
    writer, pusher = container(documents, "Writer"), container(documents, "Pusher")
    assert writer["resources"]["cpuLimit"] == pusher["resources"]["cpuLimit"] == 2
    assert writer["resources"]["memoryLimit"] == 0.5
    assert pusher["resources"]["memoryLimit"] == pytest.approx(8 * 2**30 / 1e9)
    assert writer["resources"]["accelerator"] == {"type": "nvidia.com/gpu", "count": "2"}
    assert "accelerator" not in pusher["resources"]


def test_a_task_may_have_an_image_of_its_own(documents):
    assert container(documents, "Writer")["image"] == "registry.example:5000/tfx-vim:gpu"
    assert container(documents, "Pusher")["image"] == "tfx-vim:1"
    with pytest.raises(pydantic.ValidationError, match="image"):
        Platform.model_validate({"every": {"image": "REPOSITORY:TAG"}})


def test_retries_and_caching_are_the_tasks(documents):
    tasks = documents[0]["root"]["dag"]["tasks"]
    assert tasks["Pusher"]["retryPolicy"] == {
        "maxRetryCount": 3,
        "backoffDuration": "10s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": "3600s",
    }
    assert tasks["Writer"]["cachingOptions"] == {}
    assert tasks["ModelValidator"]["cachingOptions"] == {"enableCache": True}


def test_what_is_kubernetes_own_is_in_the_second_document(documents):
    assert len(documents) == 2
    assert pod(documents, "Writer") == {
        "nodeSelector": {"labels": {"pool": "gpu"}},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "pvcMount": [{"constant": "runs", "mountPath": "/mnt/runs"}],
        "emptyDirMounts": [
            {"volumeName": named("dev-shm"), "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "1Gi"}
        ],
        "genericEphemeralVolume": [
            {
                "volumeName": named("scratch"),
                "mountPath": "/scratch",
                "accessModes": ["ReadWriteOnce"],
                "size": "100Gi",
                "storageClassName": "fast",
            }
        ],
        "secretAsEnv": [
            {"secretName": "keys", "keyToEnv": [{"secretKey": "accesskey", "envVar": "AWS_ACCESS_KEY_ID"}]}
        ],
        "imagePullSecret": [{"secretName": "registry"}],
        "podMetadata": {"labels": {"team": "vision"}},
        "activeDeadlineSeconds": 3600,
    }
    assert pod(documents, "Pusher") == {"imagePullSecret": [{"secretName": "registry"}]}


class named(str):
    """A name of a volume: these words and a digest of its path."""

    def __eq__(self, other):
        return re.fullmatch(f"{self}-[0-9a-f]{{6}}", other) is not None

    __hash__ = str.__hash__


def test_a_slice_of_tpu_is_a_resource_and_labels_of_its_nodes(documents):
    resources = container(documents, "ModelValidator")["resources"]
    assert resources["accelerator"] == {"type": "google.com/tpu", "count": "8"}
    assert pod(documents, "ModelValidator")["nodeSelector"]["labels"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "2x4",
    }


def test_without_platform_there_is_one_document_and_no_resources(tmp_path):
    path = tmp_path / "pipeline.yaml"
    compiler.compile_pipeline(small_graph("/run"), "tfx-vim:1", str(path), defaults=DEFAULTS)
    (specification,) = yaml.safe_load_all(path.read_text())
    assert "resources" not in specification["deploymentSpec"]["executors"]["exec-Writer"]["container"]


def test_an_unknown_task_is_one_line_with_the_nearest_name():
    loaded = config.load("digits", ["platform.tasks={Trainer-vin: {cpu: 1}}"])
    with pytest.raises(
        ConfigError, match=r"platform\.tasks must be of .*, got Trainer-vin; did you mean Trainer-vim\?"
    ):
        create_pipeline(loaded, run_dir="/run", versions=Versions("1"))


@pytest.mark.parametrize(
    ("pod", "complaint"),
    [
        ({"memory": "8 GB"}, "memory"),
        ({"volumes": [{"path": "relative", "claim": "a"}]}, "path"),
        ({"volumes": [{"path": "/a"}]}, "must have a claim or a size"),
        ({"volumes": [{"path": "/a", "claim": "a", "size": "1Gi"}]}, "must have a claim or a size"),
        ({"volumes": [{"path": "/a", "claim": "a", "storage_class": "b"}]}, "storage_class only"),
        ({"volumes": [{"path": "/a", "claim": "a", "memory": True}]}, "memory beside a size"),
        ({"volumes": [{"path": "/minio/a", "size": "1Gi"}]}, "where Kubeflow mounts its own"),
        ({"volumes": [{"path": "/a", "claim": "a"}, {"path": "/b", "claim": "a"}]}, "must differ"),
        ({"volumes": [{"path": "/a", "size": "1Gi"}, {"path": "/a", "claim": "a"}]}, "must differ"),
        ({"volumes": [{"path": "/a", "size": "1K"}]}, "size"),
        ({"accelerator": {}, "tpu": {"type": "v5", "topology": "2x4", "chips": 8}}, "absent beside tpu"),
        ({"tpu": {"type": "v5", "topology": "eight", "chips": 8}}, "topology"),
        ({"secrets": [{"name": "a", "env": {"A-B": "key"}}]}, "secrets"),
        ({"cpus": 2}, "cpus"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused(pod, complaint):
    with pytest.raises(pydantic.ValidationError, match=complaint):
        platform.Pod.model_validate(pod)


def test_the_section_is_a_part_of_the_configuration():
    run = config.load("digits", ["platform.every={memory: 4Gi}", "platform.tasks={Trainer-vim: {cpu: 8}}"])
    assert run.platform.pod("Trainer-vim").memory == "4Gi"
    assert run.platform.pod("Trainer-vim").cpu == 8
    assert run.platform.pod("Pusher-vim").cpu is None


def test_paths_that_look_alike_have_volumes_of_their_own():
    pod = platform.Pod.model_validate(
        {"volumes": [{"path": path, "size": "1Gi"} for path in ("/a/b", "/a-b")]}
    )
    one, other = platform.kubernetes(pod)["genericEphemeralVolume"]
    assert one["volumeName"] != other["volumeName"]


def test_a_configuration_that_is_written_and_read_again_gives_the_same_pods():
    run = config.load("digits", ["platform={every: {cpu: 2}, tasks: {Trainer-vim: {memory: 4Gi}}}"])
    for mode in ("json", "python"):
        again = config.Config.model_validate(run.model_dump(mode=mode))
        assert again.platform.pod("Trainer-vim").cpu == 2
        assert again.platform.pod("Trainer-vim").memory == "4Gi"


@pytest.mark.parametrize(("quantity", "count"), [("512", 512), ("1.5Gi", 3 * 2**29), ("2M", 2_000_000)])
def test_quantities_are_in_bytes(quantity, count):
    assert platform.in_bytes(quantity) == count
