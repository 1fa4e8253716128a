import os

import pytest
import tensorflow as tf

from components.image_example_gen.images import Image
from components.image_example_gen.sources import SourceError, open_source, source_version
from tests.components.image_example_gen import pictures
from tests.components.image_example_gen.sources.reading import assert_images


def assert_found(folder, expected):
    def check(images):
        assert images == [
            Image(key, label, name, split, path=f"{folder}/{key}") for key, label, name, split in expected
        ]

    assert_images(open_source(f"folder:{folder}"), check)


def fill(folder, *names):
    for name in names:
        pictures.write(folder / name)


def test_classes_are_sorted_top_level_folders_with_files_at_any_depth(tmp_path):
    fill(tmp_path, "dog/1.PNG", "cat/deep/er/2.JpEg", "cat/1.webp", "cat/.hidden.png", ".git/1.png")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    assert open_source(f"folder:{tmp_path}").class_names == ("cat", "dog")
    assert_found(
        tmp_path,
        [
            ("cat/1.webp", 0, "cat", None),
            ("cat/deep/er/2.JpEg", 0, "cat", None),
            ("dog/1.PNG", 1, "dog", None),
        ],
    )


def test_a_flat_folder_is_unlabelled(tmp_path):
    fill(tmp_path, "b.png", "a.jpg")
    assert open_source(f"folder:{tmp_path}").class_names == ()
    assert_found(tmp_path, [("a.jpg", None, "", None), ("b.png", None, "", None)])


@pytest.mark.parametrize("name", ["val", "valid", "validation", "eval", "test"])
def test_split_folders_are_used_as_splits(tmp_path, name):
    fill(tmp_path, "train/dog/1.png", "train/cat/1.png", f"{name}/dog/1.png")
    train = [("train/cat/1.png", 0, "cat", "train"), ("train/dog/1.png", 1, "dog", "train")]
    assert_found(tmp_path, sorted([*train, (f"{name}/dog/1.png", 1, "dog", "eval")]))


def test_split_folders_may_be_flat_and_val_takes_precedence_over_test(tmp_path):
    fill(tmp_path, "train/1.png", "test/1.png", "val/1.png")
    assert_found(tmp_path, [("train/1.png", None, "", "train"), ("val/1.png", None, "", "eval")])


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, "train/1.png", "bus/1.png")
    assert open_source(f"folder:{tmp_path}").class_names == ("bus", "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), r"must have an image \(.jpg, .jpeg, .png, .webp\), got none"),
        (("cat/1.png", "dog/1.txt"), r"must have an image in its sub-folder dog"),
        (("cat/1.png", "stray.png"), r"must have class folders or images, got both: stray\.png"),
        (("train/cat/1.png", "val/1.png"), r"got both: val/1\.png"),
    ],
)
def test_invalid_folder_layout_is_one_line_error(tmp_path, files, message):
    fill(tmp_path, *files)
    with pytest.raises(SourceError, match=message) as caught:
        open_source(f"folder:{tmp_path}")
    assert str(caught.value).startswith(f"folder:{tmp_path} ")
    assert "\n" not in str(caught.value)


def test_missing_path_and_file_have_different_errors(tmp_path):
    with pytest.raises(SourceError, match="gone must be a folder, got a missing path"):
        open_source(f"folder:{tmp_path / 'gone'}")
    fill(tmp_path, "a.png")
    with pytest.raises(SourceError, match=r"a\.png must be a folder, got a file"):
        open_source(f"folder:{tmp_path / 'a.png'}")


def test_unreadable_folder_is_source_error(tmp_path, monkeypatch):
    def refuse(path):
        raise tf.errors.PermissionDeniedError(None, None, f"{path}; Permission denied")

    monkeypatch.setattr(tf.io.gfile, "listdir", refuse)
    with pytest.raises(SourceError, match=r"cannot be read: .*Permission denied"):
        open_source(f"folder:{tmp_path}")


def test_version_changes_only_with_file_names_sizes_and_times(tmp_path):
    fill(tmp_path, "cat/1.png", "dog/1.png")
    source = f"folder:{tmp_path}"
    versions = [source_version(source)]
    assert source_version(source) == versions[0]
    (tmp_path / "cat" / "1.png").rename(tmp_path / "cat" / "2.png")
    versions.append(source_version(source))
    fill(tmp_path, "dog/2.png")
    versions.append(source_version(source))
    os.utime(tmp_path / "dog" / "2.png", (1, 1))
    versions.append(source_version(source))
    assert len(set(versions)) == 4
