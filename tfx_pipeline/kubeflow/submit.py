"""Start a run of a compiled file on a cluster, and follow it: a thin layer over kfp's own client."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import urllib3
import yaml

from serving.wire.errors import did_you_mean, one_line
from tfx_pipeline.kubeflow.addresses import folder_problem
from tfx_pipeline.kubeflow.parameters import RUN_FOLDER, SEED, SERVING_FOLDER

# States of runs and tasks at which nothing follows (v2beta1), and the words for them here.
ENDS: Mapping[str, str] = {
    "SUCCEEDED": "done",
    "SKIPPED": "cached",
    "CACHED": "cached",
    "FAILED": "FAILED",
    "CANCELED": "canceled",
}
# How often in a row the cluster may not answer while a run is followed.
PATIENCE = 20


class SubmitError(Exception):
    """A file, parameter or cluster that no run can be started with; the message is one line for the user."""


@dataclass(frozen=True)
class Compiled:
    """What a compiled file holds: the names of its tasks, and its parameters as KFP declares them."""

    file: Path
    tasks: tuple[str, ...]
    parameters: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Submitted:
    """A run on the cluster: its id and its page."""

    id: str
    link: str


def connect(host: str, *, token: str | None, cookies: str | None) -> kfp.Client:
    """A client of a cluster, with kfp's own ways to authenticate where no token is given.

    Raises:
      SubmitError: there is none at `host`.
    """
    with _one_line(host):
        return kfp.Client(host=host, existing_token=token, cookies=cookies)


def read(file: Path) -> Compiled:
    """Read a compiled file.

    Raises:
      SubmitError: it is none.
    """
    try:
        root = next(yaml.safe_load_all(file.read_text()))["root"]
        return Compiled(file, tuple(root["dag"]["tasks"]), root["inputDefinitions"]["parameters"])
    except (KeyError, TypeError, StopIteration) as error:
        raise SubmitError(f"{file} must be a file that `tfx-vim compile` wrote, got another") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SubmitError(f"{file} must be a file that `tfx-vim compile` wrote: {one_line(error)}") from error


def parse_parameters(compiled: Compiled, given: Sequence[str]) -> dict[str, Any]:
    """The parameters of a run from `name=value` each, as the compiled file types them.

    Raises:
      SubmitError: the file has no such parameter, or the value is not of its type.
    """
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in compiled.parameters:
            near = did_you_mean(name, compiled.parameters)
            known = ", ".join(sorted(compiled.parameters))
            raise SubmitError(f"--parameter must be one of {known} with =VALUE, got {text!r}{near}")
        values[name] = value
        if name in (RUN_FOLDER, SERVING_FOLDER) and value and (problem := folder_problem(value)):
            raise SubmitError(f"--parameter {name} {problem}")
        if name == SEED:
            if not value.isascii() or not value.isdecimal() or int(value) >= 2**31:
                raise SubmitError(f"--parameter {name} must be an integer below 2**31, got {value!r}")
            values[name] = int(value)
    return values


def submit(
    client: kfp.Client,
    host: str,
    compiled: Compiled,
    parameters: Mapping[str, Any],
    *,
    experiment: str,
    name: str | None,
    namespace: str | None,
    service_account: str | None,
) -> Submitted:
    """Start a run.

    Raises:
      SubmitError: the cluster refuses it.
    """
    with _one_line(host), contextlib.redirect_stdout(io.StringIO()):  # kfp prints links of its own
        run = client.create_run_from_pipeline_package(
            str(compiled.file),
            arguments=dict(parameters),
            run_name=name,
            experiment_name=experiment,
            namespace=namespace,
            service_account=service_account,
        )
    return Submitted(run.run_id, f"{host.rstrip('/')}/#/runs/details/{run.run_id}")


def follow(
    client: kfp.Client,
    run: Submitted,
    tasks: Sequence[str],
    say: Callable[[str], None],
    *,
    interval: float = 5.0,
) -> str:
    """Say of each task how it ended, until the run ends; return the run's state.

    Args:
      client: of the cluster.
      run: what `submit` returned.
      tasks: the names of the file's tasks; a run's details hold drivers and others too.
      say: is given a line at a time.
      interval: seconds between two questions.

    Raises:
      SubmitError: the cluster has not answered for `PATIENCE` questions.
    """
    said: set[str] = set()
    missed = 0
    while True:
        try:
            answer = client.get_run(run.id)
            missed = 0
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
            missed += 1
            if missed >= PATIENCE or 400 <= (getattr(error, "status", 0) or 0) < 500:
                raise SubmitError(f"{run.link} must answer, got {_reason(error)}") from error
            time.sleep(interval)
            continue
        for task in (answer.run_details and answer.run_details.task_details) or []:
            if task.display_name in tasks and task.state in ENDS and task.display_name not in said:
                said.add(task.display_name)
                say(f"  {ENDS[task.state]:<8}  {task.display_name:<26}{_seconds(task)}")
        if answer.state in ENDS:
            if answer.error:
                say(f"  {one_line(answer.error.message)}")
            return str(answer.state)
        time.sleep(interval)


def _seconds(task: Any) -> str:
    if not task.start_time or not task.end_time:
        return ""
    return f"{(task.end_time - task.start_time).total_seconds():8.0f} s"


@contextlib.contextmanager
def _one_line(host: str) -> Iterator[None]:
    """Errors of the client as one line, without headers: they may hold credentials."""
    try:
        yield
    except kfp_server_api.ApiException as error:
        raise SubmitError(f"{host} must accept the run, got {_reason(error)}") from error
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise SubmitError(f"host must be a Kubeflow Pipelines API, got {host}: {one_line(error)}") from error


def _reason(error: Exception) -> str:
    """What a server said: status and message, which proxies put elsewhere than KFP does; no headers."""
    if not isinstance(error, kfp_server_api.ApiException):
        return one_line(error)
    reason = f"{error.status} {error.reason}"
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        body = json.loads(error.body)
        said = body.get("error") or body.get("message")
        reason += f": {one_line(said)}" if said else ""
    return reason
