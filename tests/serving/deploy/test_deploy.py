"""Parse and cross-check the deployment files, because the official image cannot run in tests."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.cli import operate
from serving.client.queries import CLASSIFIER, GENERATOR, TOKENIZER
from serving.server.rest import METRICS

DEPLOY = Path(__file__).resolve().parents[3] / "serving" / "deploy"


def read_yaml(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def test_models_config_names_all_models_in_the_mounted_folder():
    config = text_format.Parse(
        (DEPLOY / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )
    named = {one.name: one.base_path for one in config.model_config_list.config}
    assert named == {name: f"/models/{name}" for name in (TOKENIZER, CLASSIFIER, GENERATOR)}


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


def test_the_embedded_server_in_compose_takes_its_flags_and_is_for_this_machine_alone():
    (compose,) = read_yaml("compose.embedded.yaml")
    service = compose["services"]["serving"]
    program, command, *flags = service["command"]
    assert (program, command) == ("tfx-vim", operate.serve.name)
    chosen = operate.serve.make_context("serve", flags).params
    assert (chosen["run_dir"], chosen["host"], chosen["insecure"]) == ("/models", "0.0.0.0", True)
    (volume,) = service["volumes"]
    assert volume.endswith("/serving:/models/serving:ro")
    assert service["ports"] == [f"127.0.0.1:{chosen[one]}:{chosen[one]}" for one in ("port", "rest_api_port")]
    assert int(service["stop_grace_period"].removesuffix("s")) > chosen["grace"]


KUBERNETES = "1.31"
NAME = {"app.kubernetes.io/name": "tfx-vim-serving"}
BASE = ("deployment", "service", "horizontalpodautoscaler", "poddisruptionbudget", "networkpolicy")


def labelled(manifest):
    """A manifest with the labels and selectors that kustomize writes into it."""
    spec = manifest["spec"]
    if manifest["kind"] == "Deployment":
        spec["selector"]["matchLabels"] = NAME
        spec["template"]["metadata"]["labels"] = NAME
    elif manifest["kind"] == "Service":
        spec["selector"] = NAME
    return manifest


@pytest.mark.parametrize("name", BASE)
def test_every_manifest_fits_kubernetes_schema_strictly(name):
    (manifest,) = read_yaml(f"k8s/base/{name}.yaml")
    kubernetes_validate.validate(labelled(manifest), KUBERNETES, strict=True)


def test_the_base_has_every_manifest():
    (base,) = read_yaml("k8s/base/kustomization.yaml")
    assert base["resources"] == [f"{name}.yaml" for name in BASE]
    (overlay,) = read_yaml("k8s/overlays/official/kustomization.yaml")
    assert [patch["path"] for patch in overlay["patches"] if "path" in patch] == ["deployment.yaml"]


def containers():
    (deployment,) = read_yaml("k8s/base/deployment.yaml")
    (inference,) = read_yaml("k8s/overlays/kserve/inferenceservice.yaml")
    return deployment["spec"]["template"]["spec"], inference["spec"]["predictor"]


@pytest.mark.parametrize("pod", containers(), ids=["base", "kserve"])
def test_pods_run_without_rights_and_with_a_command_that_exists(pod):
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["command"] == ["tfx-vim", "serve"]
    known = {option for parameter in operate.serve.params for option in parameter.opts}
    assert {argument.partition("=")[0] for argument in container["args"]} <= known
    assert "--insecure" not in container["args"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_service_and_the_probes_name_the_servers_ports():
    (deployment,), (service,) = read_yaml("k8s/base/deployment.yaml"), read_yaml("k8s/base/service.yaml")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "http": 8501}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == set(ports)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == ports["grpc"]
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == METRICS
    assert annotations["prometheus.io/port"] == str(ports["http"])


def test_the_official_server_gets_no_flag_of_ours_and_no_token():
    (patch,) = read_yaml("k8s/overlays/official/deployment.yaml")
    pod = patch["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["tensorflow_model_server"]
    assert not any("-" in argument.partition("=")[0].removeprefix("--") for argument in container["args"])
    assert pod["volumes"] == [{"name": "token", "$patch": "delete"}]


@pytest.mark.parametrize("name", ["networkpolicy", "poddisruptionbudget"])
def test_what_selects_pods_selects_the_servers_and_no_others(name):
    # Kustomize writes selectors of deployments and services, and of nothing else.
    (manifest,) = read_yaml(f"k8s/base/{name}.yaml")
    spec = manifest["spec"]
    assert spec.get("podSelector", spec.get("selector")) == {"matchLabels": NAME}
