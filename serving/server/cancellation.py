"""Cancellation of calls into TensorFlow, one manager a thread.

TensorFlow keeps the manager that its functions run under in a variable of the whole process: what one thread
sets, the calls of all others run under, and a client that leaves would cancel the warm-up of a new version.
Here the lookup is by thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from tensorflow.python.eager import cancellation
from tensorflow.python.eager.cancellation import CancellationManager

_thread = threading.local()


@contextlib.contextmanager
def cancelled_by(manager: CancellationManager) -> Iterator[None]:
    """Run calls of this thread under a manager: `manager.start_cancel()`, from any thread, ends them."""
    _thread.manager = manager
    try:
        yield
    finally:
        _thread.manager = None


def _of_this_thread() -> CancellationManager | None:
    return getattr(_thread, "manager", None)


# Where TensorFlow looks before each call (`tensorflow.python.eager.context.Context.call_function`).
cancellation.context = _of_this_thread
