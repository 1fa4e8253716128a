"""The thread that loads models: what it does must not keep requests waiting."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tensorflow.python.eager import context

T = TypeVar("T")

# The lowest priority that a thread may have.
_NICEST = 19


def in_background(load: Callable[[], T]) -> T:
    """Run `load` in the loading thread, one at a time, and return what it returns or raise what it raises."""
    # TensorFlow's own threads would inherit the priority of the one that starts them.
    context.ensure_initialized()
    return _thread().submit(load).result()


@functools.cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="loading", initializer=_step_back)


def _step_back() -> None:
    # Where threads have no priority of their own, requests wait a little longer during a swap.
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICEST)
