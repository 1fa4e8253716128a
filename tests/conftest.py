"""The order of the tests, how much graphs are optimized in them, and memory."""

import ctypes
import gc
import os
from collections.abc import Iterator

import pytest
import tensorflow as tf

# Tests check that steps compile, and to which values, not how fast they run: LLVM's optimization is half of
# the time of such a test.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow tests first, so that no worker is left alone with them in the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Turn TensorFlow's optimizer of graphs off: it took a fifth of the time of tests that train or serve.

    Tests marked `optimized` keep it, and so does every process that a test starts.
    """
    off = item.get_closest_marker("optimized") is None
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": off})


def pytest_collection_finish() -> None:
    """Spare the collector all modules: its passes over them took a tenth of the time of tracing."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


@pytest.fixture(scope="module", autouse=True)
def _memory_is_given_back() -> Iterator[None]:
    """Give the memory of a module's models back to the system, which glibc keeps otherwise."""
    yield
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
