"""Outputs and durations of the last run's components, read from the metadata store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd


@dataclass(frozen=True)
class Result:
    """Outputs of a component in the last run.

    Attributes:
      seconds: time it took to produce these outputs, possibly in an earlier run.
      outputs: by key, one artifact each.
    """

    seconds: float
    outputs: dict[str, mlmd.Artifact]


def connection(path: Path) -> mlmd.ConnectionConfig:
    """Return the connection to the SQLite metadata store at `path`; opening it creates the file."""
    config = mlmd.ConnectionConfig()
    config.sqlite.filename_uri = str(path)
    config.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return config


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
    )
