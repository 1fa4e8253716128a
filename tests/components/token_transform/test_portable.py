"""Run TokenTransform as on Flink or Spark: submitted to a job service, executed by worker processes."""

import signal

import pytest

from components.dataset import TokenDataset, read_quarantine
from tests import portable_beam
from tests.components.token_transform import encodings
from tests.portable_beam import SECONDS, WORKERS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    with portable_beam.serve(tmp_path_factory.mktemp("services")) as served:
        yield served


@pytest.fixture
def time_limit():
    def stop(*_):
        raise TimeoutError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("time_limit")
def test_several_worker_processes_write_the_same_files_as_one(tmp_path, flags):
    model = encodings.write_model(str(tmp_path / "model"))
    images = encodings.write_images(tmp_path / "images", damaged=["train/4"], train=120, shards=4)
    here, result = encodings.run(tmp_path / "here", images, model, num_shards=2)
    counted = encodings.counters(result)
    there, result = encodings.run(tmp_path / "there", images, model, flags, num_shards=2)
    counted_there = encodings.counters(result)
    assert encodings.files(here) == encodings.files(there)
    assert [entry.key for entry in read_quarantine(there.uri)] == ["train/4"]
    assert TokenDataset.read(there.uri).records("train") == 3 * 119
    # Each process loads the model once, at its first file.
    assert (counted["load_milliseconds"], counted_there["load_milliseconds"]) == (1, WORKERS)
    assert {name: counted_there[name] for name in ("images", "skipped")} == {"images": 122, "skipped": 1}
