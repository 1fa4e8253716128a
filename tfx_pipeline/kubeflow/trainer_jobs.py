"""Trainings outside of the pipeline: on several hosts by Kubeflow Trainer v2, or on a slice of TPU.

Kubeflow Trainer has no runtime of TensorFlow's (kubeflow/trainer#2699): the runtime here is a plain one, and
`tfx-vim train --workers` makes its pods one cluster. A ConfigMap names what they read, for the addresses of
artifacts are known only when a run has made them; pods wait until it is there.
"""

from __future__ import annotations

import os
import re
from typing import Any

import yaml

from serving.export.atomic import write_atomic
from tfx_pipeline import trainings
from tfx_pipeline.config import Config, ConfigError
from tfx_pipeline.kubeflow import platform
from tfx_pipeline.kubeflow.platform import Pod
from trainers.training.config import PUSHED
from trainers.training.preemption import PREEMPTED

# The ConfigMap with the keys `images`, `tokens` and `tokenizer`.
INPUTS = "tfx-vim-inputs"
# Of TensorFlow's server on every host.
PORT = 2222
# Where pods have the configuration.
_CONFIG, _FILE = "/etc/tfx-vim", "config.yaml"
_STEP = "trainer.kubeflow.org/trainjob-ancestor-step"


def check(config: Config, run: str) -> None:
    """Check that trainings can run outside of the pipeline.

    Raises:
      ConfigError: TensorFlow cannot write to `run`, a slice of TPU has several hosts, hosts would train each
        for itself, or Kubernetes would not take a name.
    """
    if run.startswith(("s3://", "minio://")):
        raise ConfigError(
            f"run must be gs://BUCKET/FOLDER or a path on a volume for trainer-jobs, got {run!r}"
        )
    for name in trainings.of(config):
        pod, section = config.platform.pod(f"Trainer-{name}"), trainings.TRAININGS[name].section
        train = getattr(config, section).train
        hosts = f"platform.tasks.Trainer-{name}.hosts"
        if pod.tpu and pod.hosts > 1:
            raise ConfigError(
                f"{hosts} must be 1 beside tpu: TensorFlow reaches larger slices only through Cloud TPU's "
                f"own runtime, got {pod.hosts}"
            )
        if pod.hosts > 1 and train.strategy not in ("auto", "multi_worker"):
            raise ConfigError(f"{section}.train.strategy must be auto or multi_worker, got {train.strategy}")
        if train.warm_start == PUSHED:
            raise ConfigError(
                f"{section}.train.warm_start must be the path of weights for a job of its own, got {PUSHED}"
            )
        if pod.hosts > 1 and train.batch_size % pod.hosts:
            raise ConfigError(
                f"{section}.train.batch_size must be a multiple of {pod.hosts} hosts, got {train.batch_size}"
            )
        # A label of RFC 1035 with five letters of Kubernetes' own at its end.
        longest = f"{_job_name(config, name)}-node-0-{pod.hosts - 1}"
        if not re.fullmatch(r"[a-z][-a-z0-9]{0,56}", longest):
            raise ConfigError(
                f"name must give pods at most 57 of a-z, 0-9 and -, a letter first, got {longest!r}"
            )


def _job_name(config: Config, name: str) -> str:
    return f"{config.name}-{name}".replace("_", "-")


def write(config: Config, folder: str, *, image: str, run: str) -> list[str]:
    """Write the manifests of all trainings, which `check` accepts, each file atomically; return their paths.

    Each training has a TrainJob on `platform.tasks.Trainer-<name>.hosts` hosts, or a Job where `tpu` is set.

    Args:
      config: the run's configuration.
      folder: a local folder.
      image: of pods that have none of their own.
      run: the folder of the run, which all hosts reach.
    """
    os.makedirs(folder, exist_ok=True)
    paths = []
    for name in trainings.of(config):
        pod = config.platform.pod(f"Trainer-{name}")
        job = _job_name(config, name)
        # The image may have other libraries than the machine that compiles, whose fingerprint the run has.
        code = trainings.fingerprint(name)
        command = ["tfx-vim", "train", name, "--preset", f"{_CONFIG}/{_FILE}", "--code", code]
        command += ["--run", run, "--output", f"{run}/jobs/{name}"]
        reads_tokens = name == "vim" and config.stage2.tokens == "cached"
        environment = [_from_map("TFX_VIM_EXAMPLES", "tokens" if reads_tokens else "images")]
        if name == "vim":
            environment.append(_from_map("TFX_VIM_TOKENIZER", "tokenizer"))
        if pod.tpu:
            section = trainings.TRAININGS[name].section
            local = [f"{section}.train.strategy=tpu", f"{section}.train.tpu.name=local"]
            if section == "stage2":
                local.append("stage2.logged_samples=0")
            command += [part for key in local for part in ("--set", key)]
            documents = [_job(job, _template(job, pod, command, environment, image), pod)]
        else:
            if pod.hosts > 1:
                # Names of a JobSet's pods: of the job `node` the first copy, and a pod's index in it, which
                # Kubernetes puts into JOB_COMPLETION_INDEX, where `tfx-vim train` reads it.
                hosts = [f"{job}-node-0-{index}.{job}:{PORT}" for index in range(pod.hosts)]
                command += ["--workers", ",".join(hosts)]
            documents = _train_job(job, _template(job, pod, command, environment, image), pod)
        text = yaml.safe_dump(config.model_dump(mode="json", exclude={"platform"}), sort_keys=False)
        documents.insert(0, _config_map(job, {_FILE: text}))
        paths.append(os.path.join(folder, f"Trainer-{name}.yaml"))
        write_atomic(paths[-1], yaml.dump_all(documents, Dumper=_Readable, sort_keys=False))
    return paths


class _Readable(yaml.SafeDumper):
    """Texts of several lines as they are."""


_Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def _config_map(name: str, data: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def _train_job(name: str, template: dict[str, Any], pod: Pod) -> list[dict[str, Any]]:
    """A runtime of Kubeflow Trainer and the TrainJob that it runs."""
    node = {
        "name": "node",
        "template": {
            "metadata": {"labels": {_STEP: "trainer"}},
            "spec": {
                "backoffLimit": 0,
                "podFailurePolicy": _on_preemption("FailJob"),
                "template": template,
            },
        },
    }
    runtime = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": {"name": name},
        "spec": {
            "mlPolicy": {"numNodes": pod.hosts},
            "template": {
                "spec": {
                    # One host that is lost ends all; together they go on from the last checkpoint.
                    # A job that its pods' failure policy has ended was preempted: that is no failure.
                    "failurePolicy": {
                        "maxRestarts": _retries(pod),
                        "rules": [
                            {
                                "name": "preempted",
                                "action": "RestartJobSetAndIgnoreMaxRestarts",
                                "onJobFailureReasons": ["PodFailurePolicy"],
                            }
                        ],
                    },
                    "replicatedJobs": [node],
                }
            },
        },
    }
    job = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "TrainingRuntime",
                "name": name,
            },
            "trainer": {"numNodes": pod.hosts},
        },
    }
    return [runtime, job]


def _job(name: str, template: dict[str, Any], pod: Pod) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": _retries(pod),
            "podFailurePolicy": _on_preemption("Ignore"),
            "template": template,
        },
    }


def _on_preemption(action: str) -> dict[str, Any]:
    """What to do with a pod whose node is taken away, which is no failure of its own."""
    return {
        "rules": [
            {"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": action, "onExitCodes": {"operator": "In", "values": [PREEMPTED]}},
        ]
    }


def _retries(pod: Pod) -> int:
    return pod.retries.count if pod.retries else 3


def _template(name: str, pod: Pod, command: list[str], environment: list[Any], image: str) -> dict[str, Any]:
    """The pods of a training: Kubernetes' own fields for the keys of `platform`."""
    limits = {"cpu": pod.cpu and f"{pod.cpu:g}", "memory": pod.memory}
    if pod.accelerator:
        limits[pod.accelerator.resource] = str(pod.accelerator.count)
    if pod.tpu:
        limits["google.com/tpu"] = str(pod.tpu.chips)
    limits = {key: value for key, value in limits.items() if value}
    for secret in pod.secrets:
        for variable, key in secret.env.items():
            reference = {"secretKeyRef": {"name": secret.name, "key": key}}
            environment = [*environment, {"name": variable, "valueFrom": reference}]
    container = {
        "name": "node",
        "image": pod.image or image,
        "command": command,
        "env": environment,
        "resources": {"limits": limits, "requests": dict(limits)} if limits else None,
        "ports": [{"containerPort": PORT, "protocol": "TCP"}] if pod.hosts > 1 else None,
        "volumeMounts": [
            {"name": "config", "mountPath": _CONFIG},
            *({"name": platform.volume_name(one), "mountPath": one.path} for one in pod.volumes),
        ],
    }
    specification = {
        "restartPolicy": "Never",
        "containers": [_set(container)],
        "nodeSelector": platform.node_labels(pod),
        "tolerations": [platform.toleration(one) for one in pod.tolerations],
        "volumes": [
            {"name": "config", "configMap": {"name": name}},
            *({"name": platform.volume_name(one), **_source(one)} for one in pod.volumes),
        ],
        "imagePullSecrets": [{"name": name} for name in pod.image_pull_secrets],
        "activeDeadlineSeconds": pod.deadline_seconds,
    }
    metadata = {"labels": pod.labels} if pod.labels else {}
    return _set({"metadata": metadata, "spec": _set(specification)})


def _source(volume: platform.Volume) -> dict[str, Any]:
    if volume.claim:
        return {"persistentVolumeClaim": {"claimName": volume.claim}}
    if volume.memory:
        return {"emptyDir": {"medium": "Memory", "sizeLimit": volume.size}}
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": volume.size}},
    }
    if volume.storage_class:
        claim["storageClassName"] = volume.storage_class
    return {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}


def _from_map(variable: str, key: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"configMapKeyRef": {"name": INPUTS, "key": key}}}


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}
