import os

import pytest

from serving.export import versions
from serving.export.atomic import DRAFT
from serving.export.versions import content_digest, push


@pytest.fixture
def model(tmp_path) -> str:
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    return str(folder)


def test_versions_rise_whatever_the_clock_does(tmp_path, model, monkeypatch):
    for now, expected in ((1000.7, 1000), (1000.9, 1001), (20.0, 1002), (1003.0, 1003)):
        monkeypatch.setattr(versions.time, "time", lambda now=now: now)
        assert push(model, str(tmp_path / "served")) == f"{tmp_path}/served/{expected}"
    assert list(versions.versions(str(tmp_path / "served"))) == [1003, 1002, 1001, 1000]


def test_pushed_version_equals_the_model(tmp_path, model):
    assert content_digest(push(model, str(tmp_path / "served"))) == content_digest(model) != ""


def test_what_a_killed_push_left_is_removed_by_the_next(tmp_path, model):
    served = tmp_path / "served"
    whole = push(model, str(served))
    (served / "7").mkdir()
    (served / "7" / "variables").mkdir()
    (served / f"{DRAFT}abc").mkdir()
    newest = push(model, str(served))
    assert sorted(os.listdir(served)) == sorted(map(os.path.basename, (whole, newest)))


def test_failed_push_leaves_nothing(tmp_path, model, monkeypatch):
    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(versions, "copy_file", fail)
    with pytest.raises(OSError, match="disk full"):
        push(model, str(tmp_path / "served"))
    assert os.listdir(tmp_path / "served") == []


def test_saved_model_is_copied_last(tmp_path, model, monkeypatch):
    copied = []
    copy = versions.copy_file
    monkeypatch.setattr(versions, "copy_file", lambda one, other: copied.append(one) or copy(one, other))
    push(model, str(tmp_path / "served"))
    assert [os.path.basename(path) for path in copied] == ["variables.index", "saved_model.pb"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "saved_model.pb").write_bytes(b"gra"),
        lambda folder: (folder / "variables" / "variables.index").write_bytes(bytes(5)),
        lambda folder: (folder / "saved_model.pb").unlink(),
        lambda folder: (folder / "saved_model.pb").rename(folder / "other.pb"),
    ],
)
def test_digest_sees_any_change(tmp_path, model, damage):
    before = content_digest(model)
    damage(tmp_path / "model")
    assert content_digest(model) != before


def test_a_version_is_any_folder_whose_name_is_a_number_of_64_bits(tmp_path):
    for name in ("00000123", "7", "007", "9" * 25, "12a", "-1", "²"):
        (tmp_path / name).mkdir()
    assert versions.versions(str(tmp_path)) == {123: f"{tmp_path}/00000123", 7: f"{tmp_path}/7"}


def test_missing_folder_has_no_digest_and_no_versions(tmp_path):
    assert content_digest(str(tmp_path / "nowhere")) == ""
    assert versions.versions(str(tmp_path / "nowhere")) == {}
