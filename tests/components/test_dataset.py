import json

import pytest

from components.dataset import (
    Broken,
    Dataset,
    TokenDataset,
    TooManyBroken,
    check_broken,
    read_quarantine,
    write_quarantine,
)

IMAGES = Dataset(
    source="folder:photos",
    fingerprint="0123456789abcdef",
    class_names=("cat", "dog"),
    splits={"train": {"records": 9}, "eval": {"records": 1}},
    broken=2,
)


def test_dataset_round_trips(tmp_path):
    IMAGES.write(str(tmp_path))
    assert Dataset.read(str(tmp_path)) == IMAGES
    assert IMAGES.records("train") == 9


def test_dataset_json_has_the_keys_other_packages_read(tmp_path):
    IMAGES.write(str(tmp_path))
    assert json.loads((tmp_path / "dataset.json").read_text()) == {
        "source": "folder:photos",
        "fingerprint": "0123456789abcdef",
        "class_names": ["cat", "dog"],
        "splits": {"train": {"records": 9}, "eval": {"records": 1}},
        "broken": 2,
        "notes": [],
    }


def test_token_dataset_can_be_read_as_dataset(tmp_path):
    tokens = TokenDataset(
        source="digits",
        fingerprint="0",
        class_names=(),
        splits={"train": {"records": 3}},
        augmentations=2,
        tokens=64,
        codebook_size=512,
    )
    tokens.write(str(tmp_path))
    assert TokenDataset.read(str(tmp_path)) == tokens
    assert Dataset.read(str(tmp_path)).splits == tokens.splits


def test_write_leaves_no_temporary_files(tmp_path):
    IMAGES.write(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_missing_or_damaged_file_is_one_line_error(tmp_path, content):
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset\.json must be a valid dataset\.json, got ") as caught:
        Dataset.read(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_quarantine_round_trips_and_is_absent_without_broken_images(tmp_path):
    write_quarantine(str(tmp_path), [])
    assert list(tmp_path.iterdir()) == []
    assert read_quarantine(str(tmp_path)) == []
    broken = [Broken("a.jpg", "is empty"), Broken("b/ä.png", "cannot be decoded")]
    write_quarantine(str(tmp_path), broken)
    assert read_quarantine(str(tmp_path)) == broken


def test_broken_images_up_to_the_limit_are_accepted():
    check_broken([Broken("a", "is empty")], total=100, limit=0.01)


def test_too_many_broken_images_error_lists_count_limit_and_first_names():
    broken = [Broken(f"{index}.jpg", "is empty") for index in range(6)]
    with pytest.raises(TooManyBroken) as caught:
        check_broken(broken, total=100, limit=0.05)
    message = str(caught.value)
    assert message.startswith("broken images must be at most 5.0%, got 6 of 100 (6.0%): 0.jpg (is empty), ")
    assert "4.jpg" in message
    assert "5.jpg" not in message
