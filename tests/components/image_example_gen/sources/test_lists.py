import os

import pytest
import tensorflow as tf

from components.image_example_gen.sources import LeftAside, SourceError, open_source, source_version
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
        ({"train": ["/elsewhere/0.png"], "val": ["1.png"]}, r"got 1 missing, the first /elsewhere/0"),
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


def test_lists_beside_a_table_name_its_files(tmp_path):
    outside = tmp_path.parent / f"{tmp_path.name} outside.png"
    pictures.write(outside)
    fill(tmp_path, "0.png", "a/1.png", "2.png", train=["a/1", outside], val=["./0.png"])
    rows = ["file,label", "0.png,cat", f"{tmp_path}/a/1.png,dog", "2.png,cat", f"{outside},cat"]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    source = open_source(f"csv:{tmp_path}/table.csv")
    found = {one.file if isinstance(one, LeftAside) else one.key: one for one in source.scan()}
    assert found.pop("2.png") == LeftAside("2.png", "is in no list")
    assert {key: (image.split, image.class_name) for key, image in found.items()} == {
        "0.png": ("eval", "cat"),
        f"{tmp_path}/a/1.png": ("train", "dog"),
        str(outside): ("train", "cat"),
    }

    (tmp_path / "val.txt").write_text("0.png\n9.png\n")
    with pytest.raises(
        SourceError, match=r"csv:.*must have all files in its lists, got 1 missing, the first 9"
    ):
        open_source(f"csv:{tmp_path}/table.csv")


def test_labels_of_a_table_are_in_it_or_in_its_lists(tmp_path):
    fill(tmp_path, "0.png", "1.png", train=["0.png 3"], val=["1.png 4"])
    (tmp_path / "plain.csv").write_text("file\n0.png\n1.png\n")
    images = list(open_source(f"csv:{tmp_path}/plain.csv").scan())
    assert [(image.label, image.class_name) for image in images] == [(3, "3"), (4, "4")]
    (tmp_path / "labelled.csv").write_text("file,label\n0.png,a\n1.png,b\n")
    with pytest.raises(SourceError, match="labels in its lists or the column label, got both"):
        open_source(f"csv:{tmp_path}/labelled.csv")


def test_column_of_splits_takes_precedence_over_lists(tmp_path):
    fill(tmp_path, "0.png", "1.png", train=["0.png"], val=["1.png"])
    (tmp_path / "table.csv").write_text("file,split\n0.png,val\n1.png,train\n")
    images = list(open_source(f"csv:{tmp_path}/table.csv").scan())
    assert [(image.key, image.split) for image in images] == [("0.png", "eval"), ("1.png", "train")]


def shard(folder, name):
    """A TFRecord file of one image."""
    example = tf.train.Example()
    example.features.feature["image/encoded"].bytes_list.value.append(pictures.encoded())
    with tf.io.TFRecordWriter(str(folder / name)) as writer:
        writer.write(example.SerializeToString())


@pytest.mark.parametrize("form", ["x-{}.tfrecord", "x.tfrecord-{:05d}-of-00003"])
def test_lists_beside_files_of_many_images_name_the_files(tmp_path, form):
    names = [form.format(index) for index in range(3)]
    for name in names:
        shard(tmp_path, name)
    fill(tmp_path, train=[names[2]], val=[names[0]])
    source = open_source(f"tfrecord:{tmp_path}/x*")
    left_aside, *images = source.scan()
    assert left_aside == LeftAside(names[1], "is in no list")
    assert {image.key: image.split for image in images} == {f"{names[0]}/0": "eval", f"{names[2]}/0": "train"}

    before = source.version()
    fill(tmp_path, train=[names[0]], val=[names[2]])
    assert open_source(f"tfrecord:{tmp_path}/x*").version() != before


def test_lists_that_name_other_files_are_left_aside(tmp_path):
    shard(tmp_path, "x.tfrecord")
    fill(tmp_path, train=["0.png"], val=["1.png"])
    *aside, image = open_source(f"tfrecord:{tmp_path}/x.tfrecord").scan()
    assert image.split is None
    reason = "is a list that names no file of tfrecord:"
    assert aside == [LeftAside("train.txt", reason), LeftAside("val.txt", reason)]
    (tmp_path / "train.txt").unlink()
    (aside, _) = open_source(f"tfrecord:{tmp_path}/x.tfrecord").scan()
    assert aside == LeftAside("val.txt", "is a list without its counterpart")


def test_lists_with_labels_or_missing_files_are_refused(tmp_path):
    shard(tmp_path, "x.tfrecord")
    fill(tmp_path, train=["x.tfrecord 0"], val=[])
    with pytest.raises(SourceError, match="must have labels in its lists or its files, got both"):
        open_source(f"tfrecord:{tmp_path}/x.tfrecord")
    fill(tmp_path, train=["x.tfrecord"], val=["y.tfrecord"])
    with pytest.raises(SourceError, match="must have all files in its lists, got 1 missing, the first y"):
        open_source(f"tfrecord:{tmp_path}/x.tfrecord")


def test_words_in_paths_take_precedence_over_lists(tmp_path):
    for name in ("train.tfrecord", "val.tfrecord"):
        shard(tmp_path, name)
    fill(tmp_path, train=["val.tfrecord"], val=["train.tfrecord"])
    images = list(open_source(f"tfrecord:{tmp_path}/*.tfrecord").scan())
    assert {image.key: image.split for image in images} == {
        "train.tfrecord/0": "train",
        "val.tfrecord/0": "eval",
    }
