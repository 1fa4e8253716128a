import os

import pytest

from components.image_example_gen.sources import SourceError, open_source, source_version
from tests.components.image_example_gen import pictures
from tests.components.image_example_gen.sources.reading import assert_images


def fill(folder, *names, **lists):
    for name in names:
        pictures.write(folder / name)
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def assert_split(folder, expected):
    def check(images):
        assert [(image.key, image.split, image.class_name) for image in images] == expected

    assert_images(open_source(f"folder:{folder}"), check)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "eval", "test"])
def test_lists_assign_splits_and_exclude_unlisted_images(tmp_path, name):
    fill(tmp_path, "0.png", "1.png", "2.png", "3.png", train=["2.png", "", "0.png"], **{name: ["3.png"]})
    assert_split(tmp_path, [("0.png", "train", ""), ("2.png", "train", ""), ("3.png", "eval", "")])


def test_list_of_npy_names_matches_images_of_the_same_names(tmp_path):
    fill(tmp_path, "imgHQ00000.png", "imgHQ00001.png", train=["imgHQ00001.npy"], val=["imgHQ00000.npy"])
    assert_split(tmp_path, [("imgHQ00000.png", "eval", ""), ("imgHQ00001.png", "train", "")])


def test_lists_may_name_images_in_class_folders(tmp_path):
    fill(tmp_path, "cat/0.png", "dog/0.png", train=["dog/0.png"], val=["./cat/0.png"])
    assert_split(tmp_path, [("cat/0.png", "eval", "cat"), ("dog/0.png", "train", "dog")])


def test_split_folders_take_precedence_over_lists(tmp_path):
    fill(tmp_path, "train/0.png", "val/1.png", train=["0.png 0"], val=["1.png 0"])
    assert_split(tmp_path, [("train/0.png", "train", ""), ("val/1.png", "eval", "")])


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": ["0.png"]}, r"must have val\.txt or valid\.txt.* beside train\.txt, got none"),
        ({"val": ["0.png"]}, r"must have train\.txt or training\.txt beside val\.txt, got none"),
        ({"train": ["/elsewhere/0.png"], "val": ["1.png"]}, r"must contain all .*, got /elsewhere/0\.png"),
        (
            {"train": ["0.png cat"], "val": ["1.png dog"]},
            r"line 1 of train\.txt must be a path, or .*got '0\.png cat'",
        ),
        ({"train": ["0.png,1"], "val": ["1.png,0"]}, r"must be a path, or a path and one integer"),
        ({"train": ["0.png 2 1"], "val": ["1.png 0 1"]}, r"must be a path, or a path and one integer"),
        ({"train": ["0.png -1"], "val": ["1.png 0"]}, r"must be a path, or a path and one integer"),
        (
            {"train": ["0.png 1"], "val": ["1.png"]},
            r"a label in all lines of its lists or in none, got 1\.png",
        ),
        ({"train": ["0.png 1", "0.png 2"], "val": ["1.png 1"]}, r"one label for 0\.png, got 1 and 2"),
        ({"train": ["0.png"], "val": ["0.png"]}, r"must have 0\.png in one list, got both"),
        (
            {"train": ["0.png", "8.png", "9.png"], "val": ["1.png"]},
            r"got 2 missing, the first 8",
        ),
    ],
)
def test_inconsistent_lists_are_source_error(tmp_path, lists, message):
    fill(tmp_path, "0.png", "1.png", **lists)
    with pytest.raises(SourceError, match=message):
        open_source(f"folder:{tmp_path}")


def test_absolute_paths_byte_order_marks_and_windows_lines_are_read(tmp_path):
    fill(tmp_path, "0.png", "1.png")
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbf" + f"{tmp_path}/0.png\r\n".encode())
    (tmp_path / "val.txt").write_bytes(b"\xef\xbb\xbf1.png\r\n\r\n")
    assert_split(tmp_path, [("0.png", "train", ""), ("1.png", "eval", "")])


@pytest.mark.parametrize(("train", "held_out"), [("Train.txt", "Test.txt"), ("training.TXT", "VAL.TXT")])
def test_lists_are_found_in_any_usual_case(tmp_path, train, held_out):
    fill(tmp_path, "0.png", "1.png")
    (tmp_path / train).write_text("0.png\n")
    (tmp_path / held_out).write_text("1.png\n")
    assert_split(tmp_path, [("0.png", "train", ""), ("1.png", "eval", "")])


def test_absolute_paths_may_lead_through_a_link(tmp_path):
    fill(tmp_path / "real", "0.png", "1.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name, file in (("train", "0.png"), ("val", "1.png")):
        (tmp_path / "real" / f"{name}.txt").write_text(f"{tmp_path}/real/{file}\n")
    assert_split(tmp_path / "link", [("0.png", "train", ""), ("1.png", "eval", "")])


def test_labels_behind_the_paths_are_read(tmp_path):
    fill(tmp_path, "a b.png", "1.png", train=["a b.png 1"], val=["1.png\t0"])

    def check(images):
        assert [(image.key, image.label, image.class_name) for image in images] == [
            ("1.png", 0, "0"),
            ("a b.png", 1, "1"),
        ]

    assert_images(open_source(f"folder:{tmp_path}"), check)


def test_labels_in_lists_and_class_folders_are_refused(tmp_path):
    fill(tmp_path, "cat/0.png", "dog/0.png", train=["dog/0.png 1"], val=["cat/0.png 0"])
    with pytest.raises(SourceError, match="must have labels in its lists or class folders, got both"):
        open_source(f"folder:{tmp_path}")


def test_the_version_changes_with_a_list(tmp_path):
    fill(tmp_path, "0.png", "1.png", train=["0.png"], val=["1.png"])
    before = source_version(f"folder:{tmp_path}")
    os.utime(tmp_path / "val.txt", (1, 1))
    assert source_version(f"folder:{tmp_path}") != before
