"""The component Pusher: TFX's own, with versions that are unique and rise."""

from __future__ import annotations

from tfx import v1 as tfx
from tfx.dsl.components.base import executor_spec

from components.pusher import executor


class Pusher(tfx.components.Pusher):
    """Pushes a model that both blessings allow; TFX's own skips a second push within one second."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)
