"""Parse and cross-check the deployment files, because the official image cannot run in tests."""

import re
from pathlib import Path

import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.client.queries import GENERATOR, TOKENIZER

DEPLOY = Path(__file__).resolve().parents[3] / "serving" / "deploy"


def read_yaml(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def test_models_config_names_both_models_in_the_mounted_folder():
    config = text_format.Parse(
        (DEPLOY / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )
    named = {one.name: one.base_path for one in config.model_config_list.config}
    assert named == {name: f"/models/{name}" for name in (TOKENIZER, GENERATOR)}


def test_largest_allowed_batch_size_is_max_batch_size():
    # The official stubs lack this message type. TF Serving requires that the two values agree.
    text = (DEPLOY / "batching.txt").read_text()
    sizes = [int(size) for size in re.findall(r"^allowed_batch_sizes: (\d+)$", text, re.MULTILINE)]
    (largest,) = re.findall(r"^max_batch_size \{ value: (\d+) \}$", text, re.MULTILINE)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == int(largest)


def test_compose_mounts_every_file_its_flags_name():
    (plain,), (batching,) = read_yaml("compose.yaml"), read_yaml("compose.batching.yaml")
    mounted = []
    for service in (plain["services"]["serving"], batching["services"]["serving"]):
        for volume in service["volumes"]:
            source, target, *_ = volume.rsplit(":", 2) if volume.endswith(":ro") else volume.rsplit(":", 1)
            mounted.append(target)
            assert source.endswith("}/serving") or (DEPLOY / source).is_file()
        for flag in service["command"]:
            _, _, file = flag.partition("=")
            assert not file or file in mounted
    assert "/models" in mounted
    assert plain["services"]["serving"]["command"][0] in batching["services"]["serving"]["command"]


def test_kubernetes_service_selects_the_deployment():
    deployment, service = read_yaml("k8s/serving.yaml")
    pod = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "http": 8501}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == set(ports)
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
