"""The component ExampleValidator: TFX's own, whose anomalies stop the run."""

from __future__ import annotations

from tfx import v1 as tfx
from tfx.dsl.components.base import executor_spec

from components.example_validator import executor


class ExampleValidator(tfx.components.ExampleValidator):
    """Fails if the statistics have an anomaly against the schema; TFX's own only writes it to a file."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)
