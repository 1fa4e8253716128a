import os

import pytest
import tensorflow as tf

from serving.export.atomic import DRAFT, atomic_folder, atomic_path, write_atomic


def write_half(path):
    with open(path, "w") as file:
        file.write("half")
    raise OSError("disk full")


def test_file_appears_only_when_complete(tmp_path):
    path = tmp_path / "file"
    with atomic_path(str(path), str(tmp_path)) as draft:
        with open(draft, "w") as file:
            file.write("half")
        assert not path.exists()
    assert path.read_text() == "half"
    assert os.listdir(tmp_path) == ["file"]


def test_concurrent_writers_leave_one_complete_file(tmp_path):
    path = tmp_path / "file"
    with atomic_path(str(path), str(tmp_path)) as one, atomic_path(str(path), str(tmp_path)) as other:
        for draft in (one, other):
            with open(draft, "w") as file:
                file.write("whole")
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["file"]


def test_failed_write_keeps_the_previous_file_and_leaves_no_draft(tmp_path):
    path = tmp_path / "file"
    path.write_text("former")
    with pytest.raises(OSError, match="disk full"), atomic_path(str(path), str(tmp_path)) as draft:
        write_half(draft)
    assert path.read_text() == "former"
    assert os.listdir(tmp_path) == ["file"]


def test_atomic_folder_is_emptied_on_failure(tmp_path):
    folder = tmp_path / "folder"
    with pytest.raises(OSError, match="disk full"), atomic_folder(str(folder)):
        write_half(folder / "half")
    assert not list(folder.iterdir())


def test_atomic_folder_holds_no_earlier_results_and_no_drafts(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "former").write_text("result")
    with atomic_folder(str(folder)):
        assert os.listdir(folder) == []
        (folder / "result").write_text("whole")
        (folder / f"{DRAFT}0").write_text("of a worker that was killed")
    assert os.listdir(folder) == ["result"]


def test_new_folder_appears_only_when_complete(tmp_path):
    folder = tmp_path / "missing" / "folder"
    with atomic_path(folder) as draft:
        os.mkdir(draft)
        write_atomic(os.path.join(draft, "result"), "whole")
        assert not folder.exists()
    assert (folder / "result").read_text() == "whole"
    assert os.listdir(folder.parent) == ["folder"]


def test_remote_paths_use_tensorflow_file_systems():
    write_atomic("ram://bucket/folder/file", b"whole")
    with tf.io.gfile.GFile("ram://bucket/folder/file", "rb") as file:
        assert file.read() == b"whole"
    assert tf.io.gfile.listdir("ram://bucket/folder") == ["file"]
    with pytest.raises(OSError, match="disk full"), atomic_path("ram://bucket/folder/file"):
        raise OSError("disk full")
    assert tf.io.gfile.listdir("ram://bucket/folder") == ["file"]
