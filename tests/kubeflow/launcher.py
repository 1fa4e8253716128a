"""Kubeflow Pipelines' driver and launcher in Python: run a compiled file as a cluster would.

Written after kubeflow/pipelines; what differs between releases is in `Release`. Below backend/src/v2:

- driver/driver.go, container.go, resolve.go: parameters and their types, `ExecutorInput`, outputs' addresses,
  `executor-logs` (#11762), one random part an execution (#11243).
- component/launcher_v2.go: placeholders, folders, downloads, the command's run, the file of outputs,
  `mergeRuntimeArtifacts`, uploads; after ML Metadata's removal (#13986) outputs must be there.
- objectstore/object_store.go: keys and local paths; markers of directories become empty files (#13476, open).
- metadata/client.go, converter.go: what ML Metadata does to an artifact's metadata.
- cacheutils/cache.go: the cache's key.
- compiler/argocompiler/dag.go: tasks' keys are Argo's names; a retry has the same `ExecutorInput`.

A task is a process with a disk of its own, below a folder of the test. Nested DAGs, loops, conditions and
importers, which TFX does not compile to, are left out, and so is Kubernetes.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.kubeflow import stores

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
LOGS = "executor-logs"
MOUNTS = {"gs": "gcs", "minio": "minio", "s3": "s3"}
ARGO_NAME = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]*")


@dataclass(frozen=True)
class Release:
    """What differs between releases.

    Attributes:
      logs: whether an output `executor-logs` is added, and its file made before the command runs.
      salted: whether an execution's outputs have a random part in their addresses.
      metadata_store: whether artifacts go through ML Metadata: without types, and with changed metadata.
      siblings: whether a download takes keys that only begin like the artifact's.
    """

    logs: bool = True
    salted: bool = True
    metadata_store: bool = True
    siblings: bool = True


RELEASES = {
    "2.4": Release(logs=False, salted=False),
    "2.5": Release(),
    "2.17": Release(siblings=False),
    "master": Release(metadata_store=False, siblings=False),
}


class TaskFailed(Exception):
    """A task's command, or what it left, made the launcher fail; the message holds the log."""


@dataclass
class Execution:
    """One task of a run: `state` is CACHED or COMPLETE, `outputs` its artifacts, `log` what it printed."""

    state: str
    outputs: dict
    log: str = ""
    attempts: int = 1


@dataclass
class Cluster:
    """An installation of Kubeflow Pipelines.

    Attributes:
      store: its object store.
      scheme: of the addresses in it.
      release: which release it is.
      folder: for the disks of its pods.
      retries: how often a failed task is tried again.
    """

    store: object
    scheme: str
    release: Release
    folder: Path
    retries: int = 0
    _cache: dict = field(default_factory=dict)
    _artifacts: int = 0

    def run(self, file, parameters=None, *, watch=None):
        """Run a compiled file; return its executions by task.

        Args:
          file: the compiled pipeline.
          parameters: the run's; the others have their defaults.
          watch: called with a task's name, the attempt, its process once that runs, and the places on its
            disk that it writes to.
        """
        specification = next(yaml.safe_load_all(Path(file).read_text()))
        assert specification["schemaVersion"] == "2.1.0"
        root = specification["root"]
        given = _run_parameters(root, parameters or {})
        base = specification.get("defaultPipelineRoot", f"{self.scheme}://{stores.BUCKET}/v2/artifacts")
        place = f"{base.rstrip('/')}/{specification['pipelineInfo']['name']}/{uuid.uuid4()}"
        done = {}
        for name in _order(root["dag"]["tasks"]):
            done[name] = self._execute(specification, name, given, place, done, watch)
        return done

    def _execute(self, specification, name, given, place, done, watch):
        assert ARGO_NAME.fullmatch(name), name
        task = specification["root"]["dag"]["tasks"][name]
        component = specification["components"][task["componentRef"]["name"]]
        executor = specification["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        parameters = _task_parameters(task, component, given)
        sources = {
            key: value["taskOutputArtifact"] for key, value in task["inputs"].get("artifacts", {}).items()
        }
        inputs = {
            key: done[source["producerTask"]].outputs[source["outputArtifactKey"]]
            for key, source in sources.items()
        }
        declared = dict(component.get("outputDefinitions", {}).get("artifacts", {}))
        if self.release.logs:
            declared[LOGS] = {"artifactType": {"schemaTitle": "system.Artifact"}}
        key = _cache_key(inputs, parameters, declared, executor)
        if task.get("cachingOptions", {}).get("enableCache") and key in self._cache:
            return Execution("CACHED", self._cache[key])

        own = f"{place}/{name}/{uuid.uuid4()}" if self.release.salted else f"{place}/{name}"
        for attempt in range(self.retries + 1):
            # A pod of its own each time, with an empty disk.
            disk = self.folder / f"{name}-{uuid.uuid4().hex[:8]}"
            disk.mkdir(parents=True)
            sent = {
                "inputs": {
                    "parameterValues": parameters,
                    "artifacts": {key: {"artifacts": [self._sent(one)]} for key, one in inputs.items()},
                },
                "outputs": {
                    "artifacts": {
                        key: {"artifacts": [{"uri": f"{own}/{key}", "type": one["artifactType"]}]}
                        for key, one in declared.items()
                    },
                    "outputFile": str(disk / "tmp/kfp_outputs/output_metadata.json"),
                },
            }
            try:
                outputs, log = self._launch(name, attempt, executor, sent, inputs, disk, place, watch)
            except TaskFailed:
                if attempt == self.retries:
                    raise
                continue
            self._cache[key] = outputs
            return Execution("COMPLETE", outputs, log, attempt + 1)
        raise AssertionError

    def _launch(self, name, attempt, executor, sent, inputs, disk, place, watch):
        """Do what the launcher does in the pod."""
        wanted = {key: one["artifacts"][0] for key, one in sent["outputs"]["artifacts"].items()}
        for artifact in wanted.values():
            self._local(disk, artifact["uri"]).parent.mkdir(parents=True, exist_ok=True)
        argv = _replaced([*executor["command"], *executor["args"]], sent)
        for artifact in inputs.values():
            self._download(artifact["uri"], disk)
        if self.release.logs:
            self._local(disk, wanted[LOGS]["uri"]).write_bytes(b"")
        process = subprocess.Popen(
            argv,
            cwd=REPOSITORY,
            env={
                **stores.environment(self.store),
                "POD": str(disk),
                "PYTHONPATH": os.pathsep.join((str(HERE / "pod"), str(REPOSITORY))),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        if watch:
            outputs = [one["uri"] for key, one in wanted.items() if key != LOGS]
            watch(name, attempt, process, [self._local(disk, uri) for uri in (*outputs, f"{place}/run")])
        log, _ = process.communicate()
        if process.returncode:
            raise TaskFailed(f"{name}: exit status {process.returncode}\n{log}")
        if self.release.logs:
            self._local(disk, wanted[LOGS]["uri"]).write_text(log)

        outputs = {}
        replies = _executor_output(Path(sent["outputs"]["outputFile"]))
        for key, artifact in wanted.items():
            reply = replies.get(key, {})
            merged = {
                "uri": reply.get("uri") or artifact["uri"],
                "metadata": {**artifact.get("metadata", {}), **reply.get("metadata", {})},
                "type": artifact["type"],
            }
            if not merged["uri"].startswith(f"{place}/"):
                raise TaskFailed(f"{name}: {key} is outside of {place}: {merged['uri']}")
            self._upload(name, key, merged, disk)
            outputs[key] = self._recorded(key, merged)
        return outputs, log

    def _recorded(self, key, artifact):
        """An artifact as it is kept, with an id."""
        self._artifacts += 1
        kept = {**artifact, "id": str(self._artifacts)}
        if self.release.metadata_store:
            changed = {name: through_metadata_store(value) for name, value in artifact["metadata"].items()}
            session = json.dumps({"Provider": self.scheme, "Params": {"fromEnv": "true"}})
            kept["metadata"] = {"display_name": key, "store_session_info": session, **changed}
        return kept

    def _sent(self, artifact):
        """An artifact as an input."""
        sent = {"uri": artifact["uri"], "metadata": artifact["metadata"]}
        if self.release.metadata_store:
            return {"name": artifact["id"], "type": {"instanceSchema": ""}, **sent}
        title = {"schemaTitle": artifact["type"]["schemaTitle"]}
        return {"name": "", "artifactId": artifact["id"], "type": title, **sent}

    def _local(self, disk, uri):
        scheme, _, rest = uri.partition("://")
        assert scheme in MOUNTS, f"unsupported storage scheme: {uri}"
        return disk / MOUNTS[scheme] / rest

    def _download(self, uri, disk):
        key = key_of(uri)
        for found in self.store.keys(key):
            below = found == key or found.startswith(f"{key}/")
            if not (below or self.release.siblings):
                continue
            # filepath.Join and filepath.Rel clean a marker's key, which ends in a slash.
            path = Path(os.path.normpath(self._local(disk, uri) / os.path.relpath(found, key)))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.store.read(found))

    def _upload(self, task, key, artifact, disk):
        path = self._local(disk, artifact["uri"])
        if not self.release.metadata_store and artifact["type"]["schemaTitle"] == "system.Metrics":
            wrong = {
                name: one for name, one in artifact["metadata"].items() if not isinstance(one, int | float)
            }
            if wrong:
                raise TaskFailed(f"{task}: metrics must be numbers, got {wrong}")
            return
        if not path.exists():
            if not self.release.metadata_store:
                raise TaskFailed(f"{task}: declared output artifact {key!r} is missing at {path}")
            return
        files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        for one in sorted(files):
            below = "" if one == path else f"/{one.relative_to(path).as_posix()}"
            self.store.write(f"{key_of(artifact['uri'])}{below}", one.read_bytes())


def kill(process):
    """Kill a task's command and all that it started, as an eviction or a lack of memory does."""
    os.killpg(process.pid, signal.SIGKILL)


def _order(tasks):
    """The names of tasks, each after those it depends on."""
    order = []
    while len(order) < len(tasks):
        ready = [
            name
            for name, task in tasks.items()
            if name not in order and set(task.get("dependentTasks", [])) <= set(order)
        ]
        assert ready, "the graph has a circle"
        order += ready
    return order


def _run_parameters(root, given):
    """A run's parameters, with defaults; unknown ones and wrong types are refused, as CreateRun does."""
    declared = root.get("inputDefinitions", {}).get("parameters", {})
    assert not set(given) - set(declared), f"unknown parameters {set(given) - set(declared)}"
    values = {key: given.get(key, one.get("defaultValue")) for key, one in declared.items()}
    for key, value in values.items():
        _check_type(key, value, declared[key]["parameterType"])
    return values


def _task_parameters(task, component, given):
    declared = component.get("inputDefinitions", {}).get("parameters", {})
    values = {}
    for key, source in task.get("inputs", {}).get("parameters", {}).items():
        if "componentInputParameter" in source:
            values[key] = given[source["componentInputParameter"]]
        else:
            values[key] = source["runtimeValue"]["constant"]
        _check_type(key, values[key], declared[key]["parameterType"])
    return values


def _check_type(key, value, wanted):
    fits = {
        "STRING": isinstance(value, str),
        "NUMBER_INTEGER": isinstance(value, int | float) and not isinstance(value, bool),
        "NUMBER_DOUBLE": isinstance(value, int | float) and not isinstance(value, bool),
        "BOOLEAN": isinstance(value, bool),
    }[wanted]
    assert fits, f"input parameter {key!r} type mismatch: expect {wanted}, got {value!r}"


def _replaced(argv, sent):
    """A command line without placeholders; `{{$}}` first, and the others also in what it became."""
    whole = json.dumps(sent)
    parameters = sent["inputs"]["parameterValues"]
    replaced = []
    for argument in argv:
        argument = argument.replace("{{$}}", whole)
        for key, value in parameters.items():
            text = value if isinstance(value, str) else json.dumps(value)
            argument = argument.replace(f"{{{{$.inputs.parameters['{key}']}}}}", text)
        replaced.append(argument)
    return replaced


def _executor_output(path):
    """The file that a command may leave; strict, as protojson is."""
    if not path.exists():
        return {}

    def refuse(constant):
        raise TaskFailed(f"{path.name} holds {constant}, which is not JSON")

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert set(content) <= {"parameterValues", "artifacts"}, content
    for lists in content["artifacts"].values():
        assert set(lists["artifacts"][0]) <= {"uri", "metadata", "name", "type"}
    return {key: lists["artifacts"][0] for key, lists in content["artifacts"].items()}


def through_metadata_store(value):
    """What ML Metadata makes of a value."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float | str):
        return value
    if isinstance(value, list | dict):
        return {"list" if isinstance(value, list) else "struct": value}
    raise TaskFailed(f"unknown value type in metadata: {value!r}")


def _cache_key(inputs, parameters, declared, executor):
    key = {
        "inputs": {name: one["id"] for name, one in inputs.items()},
        "parameters": parameters,
        "outputs": declared,
        "container": [executor["image"], executor["command"], executor["args"]],
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def key_of(uri):
    """The key of an address in the tests' bucket."""
    return uri.partition("://")[2].removeprefix(f"{stores.BUCKET}/")
