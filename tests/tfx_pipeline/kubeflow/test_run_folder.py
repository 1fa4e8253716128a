"""A run's folder on an object store and its copy on a pod's disk."""

import os
import time
from pathlib import Path

import pytest

from tests.kubeflow import stores
from tfx_pipeline.kubeflow import addresses, run_folder

# moto and the emulator of Google's store are servers of their own.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["s3", "gs"])
def scheme(request):
    return request.param


@pytest.fixture(scope="module")
def server(scheme):
    with stores.serve(scheme) as store:
        yield store


@pytest.fixture
def store(server, tmp_path, monkeypatch):
    for key, value in {**server.environment, "no_proxy": "127.0.0.1"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(addresses, "MOUNTS", {"s3": f"{tmp_path}/disk/s3", "gs": f"{tmp_path}/disk/gs"})
    monkeypatch.setattr(run_folder, "PAUSE", 0.0)
    return server


@pytest.fixture
def folder(scheme, request):
    return f"{scheme}://{stores.BUCKET}/{request.node.name.partition('[')[0]}"


def key(folder, name):
    return f"{folder.partition(f'{stores.BUCKET}/')[2]}/{name}"


def write(path, name, content):
    os.makedirs(os.path.dirname(os.path.join(path, name)), exist_ok=True)
    with open(os.path.join(path, name), "w") as file:
        file.write(content)


def test_what_a_pod_writes_is_there_for_the_next_one(store, folder):
    with run_folder.mirrored(folder, ["checkpoints/vim"]) as path:
        assert path == addresses.local_path(folder)
        write(path, "checkpoints/vim/ckpt-1.index", "one")
        write(path, "logs/vim/events", "log")
    assert store.read(key(folder, "checkpoints/vim/ckpt-1.index")) == b"one"

    other = path + "-of-another-pod"
    os.rename(path, other)
    with run_folder.mirrored(folder, ["checkpoints/vim"]) as path:
        assert Path(path, "checkpoints/vim/ckpt-1.index").read_text() == "one"
        assert not os.path.exists(os.path.join(path, "logs"))


def test_changes_and_removals_follow_and_other_files_stay(store, folder):
    store.write(key(folder, "serving/vim/1/saved_model.pb"), b"pushed before")
    store.write(key(folder, "metrics.json"), b"{}")
    with run_folder.mirrored(folder, ["checkpoints"]) as path:
        write(path, "checkpoints/a", "old")
        write(path, "checkpoints/b", "b")
    with run_folder.mirrored(folder, ["checkpoints"]) as path:
        write(path, "checkpoints/a", "newer")
        os.remove(os.path.join(path, "checkpoints/b"))
    left = [name for name in store.keys(key(folder, "")) if not name.endswith("/")]
    assert left == [
        key(folder, name) for name in ("checkpoints/a", "metrics.json", "serving/vim/1/saved_model.pb")
    ]
    assert store.read(key(folder, "checkpoints/a")) == b"newer"


def test_of_pushed_models_only_the_names_are_fetched_and_nothing_is_lost(store, folder):
    store.write(key(folder, "serving/vim/12/saved_model.pb"), b"a large model")
    with run_folder.mirrored(folder, ["serving/vim"], names_only=True) as path:
        assert os.path.getsize(os.path.join(path, "serving/vim/12/saved_model.pb")) == 0
        write(path, "serving/vim/13/saved_model.pb", "new")
        # A push removes halves of others on a disk; in the store another pod may be writing them.
        os.remove(os.path.join(path, "serving/vim/12/saved_model.pb"))
    assert store.read(key(folder, "serving/vim/12/saved_model.pb")) == b"a large model"
    assert store.read(key(folder, "serving/vim/13/saved_model.pb")) == b"new"


def test_of_models_that_are_read_the_newest_whole_version_is_fetched_and_nothing_uploaded(store, folder):
    for name, content in {
        "9/saved_model.pb": b"old",
        "12/saved_model.pb": b"graph",
        "12/variables/variables.index": b"weights",
        "13/variables/variables.index": b"half of a push",
    }.items():
        store.write(key(folder, f"vim/{name}"), content)
    before = store.keys(key(folder, ""))
    with run_folder.newest_versions(folder, ["vim", "vit_vqgan"]) as path:
        found = {str(file.relative_to(path)) for file in Path(path).rglob("*") if file.is_file()}
        assert found == {"vim/12/saved_model.pb", "vim/12/variables/variables.index"}
        assert Path(path, "vim/12/saved_model.pb").read_bytes() == b"graph"
        write(path, "vim/14/saved_model.pb", "of the task")
    assert store.keys(key(folder, "")) == before
    assert not os.path.exists(path)


def test_files_are_uploaded_while_the_task_runs(store, folder, monkeypatch):
    monkeypatch.setattr(run_folder, "INTERVAL", 0.05)
    with run_folder.mirrored(folder, []) as path:
        write(path, "checkpoints/a", "kept")
        deadline = time.monotonic() + 20
        while key(folder, "checkpoints/a") not in store.keys(key(folder, "")):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_what_was_written_is_uploaded_when_the_task_fails(store, folder):
    def fail():
        with run_folder.mirrored(folder, []) as path:
            write(path, "checkpoints/a", "kept")
            raise RuntimeError("step 3")

    with pytest.raises(RuntimeError, match="step 3"):
        fail()
    assert store.read(key(folder, "checkpoints/a")) == b"kept"


def test_files_go_in_the_order_of_their_changes_and_drafts_not_at_all(store, folder, monkeypatch):
    order = []
    with run_folder.mirrored(folder, []) as path:
        for age, name in enumerate(("c.data", "b.index", "a.state")):
            write(path, f"checkpoints/{name}", name)
            os.utime(os.path.join(path, f"checkpoints/{name}"), (age + 1, age + 1))
        write(path, "checkpoints/.draft-1/x", "half")
        copied = run_folder.shutil.copyfileobj
        monkeypatch.setattr(
            run_folder.shutil,
            "copyfileobj",
            lambda source, *rest: (order.append(os.path.basename(source.name)), copied(source, *rest)),
        )
    assert order == ["c.data", "b.index", "a.state"]
    assert not [name for name in store.keys(key(folder, "")) if "/.draft" in name]


def mirror_with(folder, *names):
    mirror = run_folder.Mirror(folder, addresses.local_path(folder))
    for name in names:
        write(mirror.path, name, f"good {name}")
    mirror.upload()
    return mirror


def test_a_folder_that_cannot_be_read_does_not_look_like_an_empty_one(store, folder, monkeypatch):
    mirror = mirror_with(folder, "checkpoints/a")

    def exhausted(path):
        raise OSError(24, "Too many open files", path)

    with monkeypatch.context() as broken:
        broken.setattr(run_folder.os, "scandir", exhausted)
        with pytest.raises(OSError, match="Too many open files"):
            mirror.upload()
    assert store.read(key(folder, "checkpoints/a")) == b"good checkpoints/a"


def test_a_file_that_breaks_off_leaves_no_half_in_the_store(store, folder, monkeypatch):
    mirror = mirror_with(folder, "checkpoints/a", "checkpoints/b")
    write(mirror.path, "checkpoints/a", "a newer one")

    def break_off(source, target, length):
        target.write(source.read(3))
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(run_folder.shutil, "copyfileobj", break_off)
        with pytest.raises(OSError, match="Input/output error"):
            mirror.upload()
    assert key(folder, "checkpoints/a") not in store.keys(key(folder, ""))
    mirror.upload()
    assert store.read(key(folder, "checkpoints/a")) == b"a newer one"


def test_a_file_that_somebody_else_removed_from_the_store_stops_nothing(store, folder):
    mirror = mirror_with(folder, "checkpoints/a", "checkpoints/b")
    mirror._store.delete_file(f"{mirror._base}/checkpoints/a")
    os.remove(os.path.join(mirror.path, "checkpoints/a"))
    write(mirror.path, "checkpoints/c", "new")
    mirror.upload()
    left = [name for name in store.keys(key(folder, "")) if not name.endswith("/")]
    assert left == [key(folder, "checkpoints/b"), key(folder, "checkpoints/c")]


def test_a_store_that_fails_now_and_then_loses_nothing(store, folder, monkeypatch):
    monkeypatch.setattr(run_folder, "INTERVAL", 0.01)
    upload, failures = run_folder.Mirror.upload, iter([ValueError("HTTP 400")] * 3)

    def sometimes(mirror):
        if error := next(failures, None):
            raise error
        upload(mirror)

    monkeypatch.setattr(run_folder.Mirror, "upload", sometimes)
    with run_folder.mirrored(folder, []) as path:
        write(path, "checkpoints/a", "kept")
        time.sleep(0.02)
    assert store.read(key(folder, "checkpoints/a")) == b"kept"


def test_an_unchanged_file_is_not_uploaded_again(store, folder):
    with run_folder.mirrored(folder, []) as path:
        write(path, "logs/a", "1")
    copy = run_folder.Mirror(folder, path)
    copy.upload()
    store.write(key(folder, "logs/a"), b"somebody else's")
    copy.upload()
    assert store.read(key(folder, "logs/a")) == b"somebody else's"


def test_a_store_that_takes_nothing_fails_the_task_at_its_end(store, folder):
    bucket = folder.replace(stores.BUCKET, "no-such-bucket")
    with pytest.raises(OSError), run_folder.mirrored(bucket, []) as path:  # noqa: PT011 - stores say it differently
        write(path, "logs/a", "1")


def test_a_volume_is_used_as_it_is(tmp_path):
    with run_folder.mirrored(str(tmp_path), ["checkpoints"]) as path:
        assert path == str(tmp_path)
    assert os.listdir(tmp_path) == []
