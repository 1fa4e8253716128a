"""The section `platform:`: what each task's pod gets on Kubeflow, and how it is written into the file.

Resources, retries and caching are fields of the PipelineSpec. All else is Kubernetes' own and stands in a
second document, which KFP calls the platform specification (kubernetes_executor_config.proto).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from tfx_pipeline.kubeflow.addresses import MOUNTS
from trainers.training.config import Section

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]
MountPath = Annotated[str, Field(pattern=r"^/[\w./-]*$")]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(k|[MGTP]|[KMGTP]i)?$")]

# A placeholder such as REPOSITORY:TAG is no reference: repositories are in lower case.
IMAGE = r"[a-z0-9]+(([._]|__|[-/]+|:[0-9]+/)[a-z0-9]+)*(:\w[\w.-]{0,127}|@sha256:[0-9a-f]{64})"

_BYTES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BYTES |= {f"{letter}i": 1024 ** (power + 1) for power, letter in enumerate("KMGTP")}


class Accelerator(Section):
    """Devices of a pod, by the name under which Kubernetes counts them."""

    resource: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[\w.-]+$")] = "nvidia.com/gpu"
    count: PositiveInt = 1


class Tpu(Section):
    """A slice of Cloud TPU on GKE, for a pod with all of its chips.

    `type` and `topology` are the labels of the node pool, such as `tpu-v5-lite-podslice` and `2x4`.
    """

    type: Name
    topology: Annotated[str, Field(pattern=r"^[0-9]+(x[0-9]+){1,2}$")]
    chips: PositiveInt


class Toleration(Section):
    """Kubernetes' own."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    seconds: NonNegativeInt | None = None


class Volume(Section):
    """A folder of the pod: an existing claim, a disk of its own of `size`, or memory of `size`."""

    path: MountPath
    claim: Name | None = None
    size: Quantity | None = None
    storage_class: Name | None = None
    memory: bool = False

    @pydantic.model_validator(mode="after")
    def _is_of_one_kind(self) -> Volume:
        if (self.claim is None) == (self.size is None):
            raise ValueError(f"volumes must have a claim or a size, got {self.path} with both or neither")
        if self.claim and self.memory:
            raise ValueError(f"volumes must have memory beside a size, got {self.path} with a claim")
        if any(f"{self.path}/".startswith(f"{mount}/") for mount in MOUNTS.values()):
            raise ValueError(f"volumes must not be where Kubeflow mounts its own, got {self.path}")
        if self.storage_class and (self.claim or self.memory):
            raise ValueError(f"volumes must have storage_class only beside a size on disk, got {self.path}")
        return self


class Secret(Section):
    """A secret of Kubernetes whose keys become environment variables: variable -> key."""

    name: Name
    env: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], str]


class Retries(Section):
    """How often a failed pod is started again, and after how many seconds: `wait`, then times `factor`."""

    count: PositiveInt
    wait: NonNegativeInt = 30
    factor: PositiveFloat = 2.0
    longest_wait: PositiveInt = 3600


class Pod(Section):
    """What the pod of a task gets. Memory in Kubernetes' notation, such as `8Gi`; `cpu` in cores.

    `image` is for tasks whose devices need another than `compile --image`. `hosts` is for trainings
    outside of the pipeline (`tfx_pipeline.kubeflow.trainer_jobs`).
    """

    image: Annotated[str, Field(pattern=f"^{IMAGE}$")] | None = None
    cpu: PositiveFloat | None = None
    memory: Quantity | None = None
    accelerator: Accelerator | None = None
    tpu: Tpu | None = None
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    volumes: tuple[Volume, ...] = ()
    secrets: tuple[Secret, ...] = ()
    image_pull_secrets: tuple[Name, ...] = ()
    labels: dict[str, str] = {}
    retries: Retries | None = None
    hosts: PositiveInt = 1
    deadline_seconds: PositiveInt | None = None
    cache: bool = True

    @pydantic.model_validator(mode="after")
    def _volumes_differ(self) -> Pod:
        for names in ([one.path for one in self.volumes], [one.claim for one in self.volumes if one.claim]):
            if len(set(names)) < len(names):
                raise ValueError(f"volumes must differ in paths and claims, got {', '.join(names)}")
        return self

    @pydantic.model_serializer(mode="wrap")
    def _only_what_was_set(self, serialize: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A default that is written down would win over the pods of every task when it is read again."""
        return {key: value for key, value in serialize(self).items() if key in self.model_fields_set}

    @pydantic.model_validator(mode="after")
    def _has_one_kind_of_device(self) -> Pod:
        if self.accelerator and self.tpu:
            raise ValueError(f"accelerator must be absent beside tpu, got {self.accelerator.resource}")
        return self


class Platform(Section):
    """Pods on Kubeflow: those of every task, and what some tasks have instead, by the task's name."""

    every: Pod = Pod()
    tasks: dict[str, Pod] = {}

    def pod(self, task: str) -> Pod:
        """The pod of a task: its own keys over those of every task."""
        own = self.tasks.get(task, Pod())
        return self.every.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})


def apply(pod: Pod, task: dict[str, Any], container: dict[str, Any]) -> None:
    """Write a pod's image, resources, retries and caching into a task and its container.

    In the fields that every release reads: `resourceCpuLimit` and its like came with 2.5, and older ones
    refuse fields that they do not know.
    """
    if pod.image:
        container["image"] = pod.image
    resources: dict[str, Any] = {}
    if pod.cpu:
        resources |= {"cpuLimit": pod.cpu, "cpuRequest": pod.cpu}
    if pod.memory:
        gigabytes = in_bytes(pod.memory) / 1e9
        resources |= {"memoryLimit": gigabytes, "memoryRequest": gigabytes}
    if devices := pod.accelerator or (
        pod.tpu and Accelerator(resource="google.com/tpu", count=pod.tpu.chips)
    ):
        resources["accelerator"] = {"type": devices.resource, "count": str(devices.count)}
    if resources:
        container["resources"] = resources
    if pod.retries:
        task["retryPolicy"] = {
            "maxRetryCount": pod.retries.count,
            "backoffDuration": f"{pod.retries.wait}s",
            "backoffFactor": pod.retries.factor,
            "backoffMaxDuration": f"{pod.retries.longest_wait}s",
        }
    if not pod.cache:
        task["cachingOptions"] = {}


def kubernetes(pod: Pod) -> dict[str, Any]:
    """A pod's entry in the platform specification; empty if it needs none."""
    labels = node_labels(pod)
    entry: dict[str, Any] = {
        "nodeSelector": {"labels": labels} if labels else None,
        "tolerations": [toleration(one) for one in pod.tolerations],
        "pvcMount": [
            {"constant": one.claim, "mountPath": one.path} for one in pod.volumes if one.claim is not None
        ],
        "emptyDirMounts": [
            {"volumeName": volume_name(one), "mountPath": one.path, "medium": "Memory", "sizeLimit": one.size}
            for one in pod.volumes
            if one.memory
        ],
        "genericEphemeralVolume": [
            {
                "volumeName": volume_name(one),
                "mountPath": one.path,
                "accessModes": ["ReadWriteOnce"],
                "size": one.size,
                **(
                    {"storageClassName": one.storage_class}
                    if one.storage_class
                    else {"defaultStorageClass": True}
                ),
            }
            for one in pod.volumes
            if one.size and not one.memory
        ],
        "secretAsEnv": [
            {
                "secretName": one.name,
                "keyToEnv": [{"secretKey": key, "envVar": variable} for variable, key in one.env.items()],
            }
            for one in pod.secrets
        ],
        "imagePullSecret": [{"secretName": name} for name in pod.image_pull_secrets],
        "podMetadata": {"labels": pod.labels} if pod.labels else None,
        "activeDeadlineSeconds": pod.deadline_seconds,
    }
    return {key: value for key, value in entry.items() if value}


def node_labels(pod: Pod) -> dict[str, str]:
    """The labels of the nodes that a pod may run on."""
    labels = dict(pod.node_selector)
    if pod.tpu:
        labels["cloud.google.com/gke-tpu-accelerator"] = pod.tpu.type
        labels["cloud.google.com/gke-tpu-topology"] = pod.tpu.topology
    return labels


def document(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The platform specification of entries by executor."""
    return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": dict(entries)}}}}


def in_bytes(quantity: str) -> int:
    """The number of bytes of a quantity, such as `8Gi`."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]
    return int(float(number) * _BYTES[unit])


def toleration(one: Toleration) -> dict[str, Any]:
    """Kubernetes' own form of a toleration."""
    named = {
        "key": one.key,
        "operator": one.operator,
        "value": one.value,
        "effect": one.effect,
        "tolerationSeconds": one.seconds,
    }
    return {key: value for key, value in named.items() if value is not None}


def volume_name(volume: Volume) -> str:
    """A name of Kubernetes for a volume: from its path, with a digest, for /a-b is not /a/b."""
    digest = hashlib.sha256(volume.path.encode()).hexdigest()[:6]
    return f"{re.sub(r'[^a-z0-9]+', '-', volume.path.lower()).strip('-')[:40]}-{digest}".lstrip("-")
