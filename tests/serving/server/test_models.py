import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from serving.cli import files
from serving.client.connect import connect
from serving.export.warmup import write_warmup
from serving.server import model
from serving.server.models import ModelRepository
from serving.server.server import Options, background_server
from serving.wire.errors import RequestError, ServingError
from tests import stand_ins

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(base, tmp_path):
    """A serving folder with only VIM, version 17, that a test may change."""
    shutil.copytree(base / "vim", tmp_path / "vim")
    return tmp_path


def states(model):
    return {status.version: status.state for status in model.statuses()}


def test_old_version_unloads_after_its_requests_finish(folder):
    repository = ModelRepository(str(folder))
    model = repository.model("vim")
    shutil.copytree(folder / "vim" / "17", folder / "vim" / "18")
    with model.lease(None, None) as old:
        assert [(news.version, news.state) for news in repository.refresh()] == [(18, "AVAILABLE")]
        assert states(model) == {18: "AVAILABLE", 17: "UNLOADING"}
        assert old.predict("metadata", {"rows": np.zeros(1, np.int32)})
        with model.lease(None, "stable") as new:
            assert new.version == 18
    assert states(model) == {18: "AVAILABLE", 17: "END"}
    with (
        pytest.raises(RequestError, match="version of vim must be 18, got 17"),
        model.lease(17, None),
    ):
        pass


def test_a_version_that_is_served_again_is_available_when_its_old_requests_end(folder):
    repository = ModelRepository(str(folder))
    model = repository.model("vim")
    shutil.copytree(folder / "vim" / "17", folder / "vim" / "18")
    with model.lease(None, None):
        repository.refresh()
        shutil.rmtree(folder / "vim" / "18")
        repository.refresh()
        assert states(model)[17] == "AVAILABLE"
    assert states(model)[17] == "AVAILABLE"


def test_incomplete_version_is_reported_once_and_served_when_complete(folder):
    repository = ModelRepository(str(folder))
    half = folder / "vim" / "18"
    half.mkdir()
    whole = (folder / "vim" / "17" / "saved_model.pb").read_bytes()
    (half / "saved_model.pb").write_bytes(whole[: len(whole) // 2])

    (news,) = repository.refresh()
    assert (news.version, news.state) == (18, "END")
    assert str(news.error).startswith("version 18 of vim does not load")
    assert repository.refresh() == []
    with repository.model("vim").lease(None, None) as servable:
        assert servable.version == 17

    shutil.copytree(folder / "vim" / "17", half, dirs_exist_ok=True)
    assert [(news.version, news.state) for news in repository.refresh()] == [(18, "AVAILABLE")]


def test_a_version_that_does_not_load_is_loaded_again_a_few_times(folder, monkeypatch):
    clock, loads = [1000.0], []

    def load(model, version, path, **options):
        loads.append(clock[0])
        if version == 18 and len(loads) < 4:
            raise OSError("the store is away")
        return servable(model, version, path, **options)

    servable = model.Servable
    repository = ModelRepository(str(folder), model.Retries(most=2, seconds=60))
    monkeypatch.setattr(model, "Servable", load)
    monkeypatch.setattr(model.time, "monotonic", lambda: clock[0])
    shutil.copytree(folder / "vim" / "17", folder / "vim" / "18")
    for _ in range(30):
        repository.refresh()
        clock[0] += 10
    # Once, and twice again.
    assert loads == [1000, 1060, 1120]
    assert states(repository.model("vim")) == {18: "END", 17: "AVAILABLE"}
    os.utime(folder / "vim" / "18" / "saved_model.pb")
    assert [(news.version, news.state) for news in repository.refresh()] == [(18, "AVAILABLE")]


def test_deleted_version_serves_until_another_is_available(folder):
    repository = ModelRepository(str(folder))
    model = repository.model("vim")
    (folder / "vim" / "17").rename(folder / "away")
    repository.refresh()
    assert states(model) == {17: "AVAILABLE"}
    (folder / "away").rename(folder / "vim" / "5")
    repository.refresh()
    assert states(model) == {17: "END", 5: "AVAILABLE"}
    repository.refresh()
    assert states(model) == {5: "AVAILABLE"}


def test_model_pushed_later_is_served(base, folder):
    repository = ModelRepository(str(folder))
    with pytest.raises(RequestError, match="model must be one of vim, got 'vit_vqgan'"):
        repository.model("vit_vqgan")
    shutil.copytree(base / "vit_vqgan", folder / "vit_vqgan")
    assert [news.model for news in repository.refresh()] == ["vit_vqgan"]


def test_version_with_failing_warmup_is_not_served(folder):
    shutil.copytree(folder / "vim" / "17", folder / "vim" / "18")
    write_warmup(str(folder / "vim" / "18"), {"metadata": {}})
    repository = ModelRepository(str(folder))
    assert states(repository.model("vim")) == {18: "END", 17: "AVAILABLE"}


@pytest.mark.parametrize("content", [[], ["notes/readme"], ["vim/latest/saved_model.pb"]])
def test_folder_without_models_is_error(tmp_path, content):
    for name in content:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with pytest.raises(ServingError, match=f"{tmp_path} must hold <model>/<integer version>"):
        ModelRepository(str(tmp_path))


def test_folder_with_unloadable_models_is_error(tmp_path):
    (tmp_path / "vim" / "1").mkdir(parents=True)
    (tmp_path / "vim" / "1" / "saved_model.pb").write_bytes(b"no model")
    with pytest.raises(ServingError, match=f"no model in {tmp_path} loads: version 1 of vim does not load: "):
        ModelRepository(str(tmp_path))


def test_version_swap_under_load_fails_no_request(folder):
    black = files.png(np.zeros((8, 8, 3), np.uint8))
    inputs = {"class_id": np.array([1], np.int32), "image_bytes": np.array([black], object)}
    answers, failures = [], []
    stop = threading.Event()

    def load(endpoint):
        with connect(endpoint) as client:
            while not stop.is_set():
                try:
                    answers.append(client.predict("vim", "score", inputs)["bits_per_token"].item())
                except Exception as error:
                    failures.append(error)

    with background_server(str(folder), Options(poll_seconds=0.1)) as server:
        threads = [threading.Thread(target=load, args=[url]) for url in (server.grpc, server.http) * 2]
        for thread in threads:
            thread.start()
        for version in (18, 19, 20):
            shutil.copytree(folder / "vim" / "17", folder / "vim" / str(version))
            wait_for_version(server, version)
        before = len(answers)
        while len(answers) < before + 20 and not failures:
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(set(answers)) == 1


def test_a_minute_of_a_swap_every_second_fails_no_request(folder):
    black = files.png(np.zeros((8, 8, 3), np.uint8))
    tokens = {"image_bytes": np.array([black], object)}
    shutil.rmtree(folder / "vim")
    stand_ins.write_tokenizer(str(folder / "vit_vqgan" / "100"))
    answers, failures, memory = Counter(), [], []
    stop = threading.Event()

    def load(endpoint):
        with connect(endpoint) as client:
            while not stop.is_set():
                try:
                    answers[client.predict("vit_vqgan", "encode", tokens)["tokens"].tobytes()] += 1
                except Exception as error:
                    failures.append(error)

    with background_server(str(folder), Options(poll_seconds=0.1)) as server:
        threads = [threading.Thread(target=load, args=[url]) for url in (server.grpc, server.http)]
        for thread in threads:
            thread.start()
        for version in range(101, 161):
            begin = time.monotonic()
            shutil.copytree(folder / "vit_vqgan" / "100", folder / "away")
            (folder / "away").rename(folder / "vit_vqgan" / str(version))
            if version > 103:
                shutil.rmtree(folder / "vit_vqgan" / str(version - 3))
            time.sleep(max(0.0, begin + 1.0 - time.monotonic()))
            memory.append(resident())
        wait_for_version(server, 160, "vit_vqgan")
        stop.set()
        for thread in threads:
            thread.join()
        served = statuses(server, "vit_vqgan")
    assert failures == []
    assert len(answers) == 1
    assert max(memory) < max(memory[:20]) + 2**28
    assert [one["version"] for one in served if one["state"] == "AVAILABLE"] == ["160"]


def test_a_push_that_is_killed_at_any_moment_is_never_loaded(folder, tmp_path_factory, capfd):
    model = tmp_path_factory.mktemp("model") / "large"
    shutil.copytree(folder / "vim" / "17", model)
    (model / "assets.extra").mkdir(exist_ok=True)
    with (model / "assets.extra" / "large").open("wb") as file:
        file.truncate(2**28)
    command = "import sys; from serving.export.versions import push; print(push(*sys.argv[1:]))"
    push = [sys.executable, "-c", command, str(model), str(folder / "vim")]
    drafts = 0
    with background_server(str(folder), Options(poll_seconds=0.05)) as server:
        for number in range(8):
            process = subprocess.Popen(push, stdout=subprocess.PIPE)
            while process.poll() is None and not list((folder / "vim").glob(".draft-*")):
                time.sleep(0.002)
            time.sleep(0.01 * number)
            process.kill()
            process.communicate()
            drafts += len(list((folder / "vim").glob(".draft-*")))
        whole = subprocess.run(push, capture_output=True, text=True, check=True).stdout.strip()
        wait_for_version(server, whole.rpartition("/")[2])
    assert drafts, "every push was whole before it was killed"
    assert "does not load" not in capfd.readouterr().err
    assert not list((folder / "vim").glob(".draft-*"))


def resident():
    """Bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def statuses(server, model):
    with urllib.request.urlopen(f"{server.http}/v1/models/{model}", timeout=30) as response:
        return json.load(response)["model_version_status"]


def wait_for_version(server, version, model="vim"):
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        served = statuses(server, model)
        if (served[0]["version"], served[0]["state"]) == (str(version), "AVAILABLE"):
            return
        time.sleep(0.05)
    raise AssertionError(f"version {version} was never served: {served}")
