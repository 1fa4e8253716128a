"""Outputs and durations of the last run's components, read from the metadata store."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ml_metadata import errors as mlmd_errors
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd

from serving.wire.errors import one_line


class LineageError(RuntimeError):
    """A metadata store that cannot be read; the message is one line for the user."""


@dataclass(frozen=True)
class Result:
    """Outputs of a component in the last run.

    Attributes:
      seconds: time it took to produce these outputs, possibly in an earlier run.
      outputs: by key, one artifact each.
      inputs: by key, one artifact each: those that the outputs were made of.
    """

    seconds: float
    outputs: dict[str, mlmd.Artifact]
    inputs: dict[str, mlmd.Artifact]


def connection(path: Path) -> mlmd.ConnectionConfig:
    """Return the connection to the SQLite metadata store at `path`; opening it creates the file."""
    config = mlmd.ConnectionConfig()
    config.sqlite.filename_uri = str(path)
    config.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return config


def open_store(path: Path) -> MetadataStore:
    """Open the metadata store of a run.

    Raises:
      LineageError: the file is read-only, no store, or a damaged one.
    """
    if path.exists() and not os.access(path, os.W_OK):
        raise LineageError(f"{path} must be a file that can be written, got one that is read-only")
    try:
        store = MetadataStore(connection(path))
        store.get_executions()
        return store
    except (mlmd_errors.StatusError, RuntimeError) as error:
        raise LineageError(
            f"{path} must be the run's lineage, got a damaged file ({one_line(error)}); without it the run "
            "begins anew, and trainers go on from their checkpoints"
        ) from error


def end_abandoned(home: Path) -> None:
    """End the executions that a killed run left unfinished, and remove what they have written.

    No other run may use the folder.

    Raises:
      LineageError: the store is damaged.
    """
    if not (home / "metadata.db").exists():
        return
    store = open_store(home / "metadata.db")
    unfinished = (mlmd.Execution.NEW, mlmd.Execution.RUNNING)
    abandoned = [one for one in store.get_executions() if one.last_known_state in unfinished]
    for execution in abandoned:
        execution.last_known_state = mlmd.Execution.CANCELED
        for pattern in (f"*/*/{execution.id}", f"*/.system/*/{execution.id}"):
            for folder in (home / "pipeline_root").glob(pattern):
                shutil.rmtree(folder)
    store.put_executions(abandoned)


def last_result(store: MetadataStore, pipeline: str, component: str) -> Result:
    """Return the outputs of a component's newest finished execution, cached or not."""
    node = store.get_context_by_type_and_name("node", f"{pipeline}.{component}")
    finished = (mlmd.Execution.COMPLETE, mlmd.Execution.CACHED)
    newest = max(
        execution.id
        for execution in store.get_executions_by_context(node.id)
        if execution.last_known_state in finished
    )
    keys = {
        event.artifact_id: event.path.steps[0].key
        for event in store.get_events_by_execution_ids([newest])
        if event.type == mlmd.Event.OUTPUT
    }
    # A cached execution lists the same artifacts again; the first execution made them.
    makers = [
        event.execution_id
        for event in store.get_events_by_artifact_ids(list(keys))
        if event.type == mlmd.Event.OUTPUT
    ]
    (maker,) = store.get_executions_by_id([min(makers)])
    return Result(
        seconds=(maker.last_update_time_since_epoch - maker.create_time_since_epoch) / 1000,
        outputs={keys[artifact.id]: artifact for artifact in store.get_artifacts_by_id(list(keys))},
        inputs=_inputs(store, maker.id),
    )


def _inputs(store: MetadataStore, execution: int) -> dict[str, mlmd.Artifact]:
    keys = {
        event.artifact_id: event.path.steps[0].key
        for event in store.get_events_by_execution_ids([execution])
        if event.type == mlmd.Event.INPUT
    }
    return {keys[artifact.id]: artifact for artifact in store.get_artifacts_by_id(list(keys))}
