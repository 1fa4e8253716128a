import os
import threading

import pytest

from serving.server.loading import in_background


def priority():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_models_are_loaded_at_the_lowest_priority_and_nothing_else_is():
    before = priority()
    assert in_background(priority) == 19
    assert priority() == before
    assert in_background(threading.get_native_id) != threading.get_native_id()
    with pytest.raises(ZeroDivisionError):
        in_background(lambda: 1 / 0)
    assert in_background(priority) == 19
