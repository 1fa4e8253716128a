import errno
import os
import time
import tracemalloc

import pytest

from components.image_example_gen.images import Image
from components.image_example_gen.sources import LeftAside, SourceError, open_source, source_version
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


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("train", "val"),
        ("train", "valid"),
        ("train", "validation"),
        ("train", "eval"),
        ("train", "test"),
        ("train", "dev"),
        ("Train", "Test"),
        ("TRAINING", "testing"),
        ("training_set", "test_set"),
        ("train2017", "val2017"),
        ("seg_train", "seg_test"),
        ("trainset", "testset"),
    ],
)
def test_split_folders_are_used_as_splits(tmp_path, train, held_out):
    fill(tmp_path, f"{train}/dog/1.png", f"{train}/cat/1.png", f"{held_out}/dog/1.png")
    expected = [
        (f"{train}/cat/1.png", 0, "cat", "train"),
        (f"{train}/dog/1.png", 1, "dog", "train"),
        (f"{held_out}/dog/1.png", 1, "dog", "eval"),
    ]
    assert_found(tmp_path, sorted(expected))
    assert open_source(f"folder:{tmp_path}").notes == (f"splits are the folders {train} and {held_out}",)


def test_split_folders_may_be_flat_and_val_takes_precedence_over_test(tmp_path):
    fill(tmp_path, "train/1.png", "test/1.png", "val/1.png")
    assert_found(tmp_path, [("train/1.png", None, "", "train"), ("val/1.png", None, "", "eval")])
    assert LeftAside("test", "is another split") in aside(tmp_path)


def aside(folder):
    return [one for one in open_source(f"folder:{folder}").scan() if isinstance(one, LeftAside)]


def test_single_class_is_no_class(tmp_path):
    fill(tmp_path, "train/images/1.png", "val/images/1.png")
    assert open_source(f"folder:{tmp_path}").notes[-1] == (
        "the only class images is no class: images are unlabelled"
    )
    assert_found(
        tmp_path, [("train/images/1.png", None, "", "train"), ("val/images/1.png", None, "", "eval")]
    )


def test_folder_that_an_archive_wraps_around_is_entered(tmp_path):
    fill(tmp_path, "PetImages/Cat/1.png", "PetImages/Dog/1.png", "__MACOSX/Cat/._1.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == ("Cat", "Dog")
    assert source.notes == ("the only folder PetImages is entered",)
    fill(
        tmp_path,
        "inner/PetImages/train/a/1.png",
        "inner/PetImages/train/b/1.png",
        "inner/PetImages/val/a/1.png",
    )
    assert open_source(f"folder:{tmp_path / 'inner'}").class_names == ("a", "b")


def test_what_is_no_image_is_left_aside_with_its_reason(tmp_path):
    fill(tmp_path, "cat/1.png", "dog/1.png", "cat/.hidden.png", "__MACOSX/cat/1.png", "cat/__MACOSX/1.png")
    for name in ("cat/notes.txt", "dog/Thumbs.db", "dog/README"):
        (tmp_path / name).write_text("no image")
    assert sorted(aside(tmp_path)) == [
        ("__MACOSX", "is hidden"),
        ("cat/.hidden.png", "is hidden"),
        ("cat/__MACOSX", "is hidden"),
        ("cat/notes.txt", "has the suffix .txt, which no known image format has"),
        ("dog/README", "has no suffix and is no image"),
        ("dog/Thumbs.db", "is hidden"),
    ]


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("a.jfif", "JPEG"),
        ("b.JPE", "JPEG"),
        ("c.bmp", "BMP"),
        ("d.gif", "GIF"),
        ("e.tif", "TIFF"),
        ("f", "JPEG"),
    ],
)
def test_every_format_that_can_be_read_is_found(tmp_path, name, encoding):
    pictures.write(tmp_path / name, encoding=encoding)
    assert_found(tmp_path, [(name, None, "", None)])


def test_each_file_is_found_once_despite_links(tmp_path):
    fill(tmp_path, "cat/1.png", "dog/1.png", "dog/more/2.png")
    (tmp_path / "cat" / "all").symlink_to("..")
    (tmp_path / "dog" / "again").symlink_to("more")
    (tmp_path / "dog" / "gone.png").symlink_to("/nowhere/gone.png")
    found = [one.key for one in open_source(f"folder:{tmp_path}").scan() if not isinstance(one, LeftAside)]
    again = {"dog/again/2.png", "dog/more/2.png"} & set(found)
    assert len(again) == 1  # by whichever name the file system lists first
    assert sorted(set(found) - again) == ["cat/1.png", "dog/1.png", "dog/gone.png"]
    assert len(aside(tmp_path)) == 2
    assert source_version(f"folder:{tmp_path}")


def test_pipes_and_links_in_a_circle_do_not_stop_the_reading(tmp_path):
    fill(tmp_path, "1.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "circle.png").symlink_to("circle.png")
    assert {one.file: one.reason for one in aside(tmp_path)} == dict.fromkeys(
        ("pipe", "pipe.png", "device.png"), "is no regular file"
    )
    assert source_version(f"folder:{tmp_path}")


def test_names_to_trip_over_are_read(tmp_path):
    names = [
        "a b.png",
        "new\nline.png",
        "per%20cent.png",
        "[1].png",
        "a.b.c.PNG",
        "quote'\".png",
        "\u732b.png",
        "*?.png",
    ]
    fill(tmp_path, *(f"d&g <b>/{name}" for name in names), "\u732b/1.png")
    expected = [(f"d&g <b>/{name}", 0, "d&g <b>", None) for name in names]
    assert_found(tmp_path, sorted([*expected, ("\u732b/1.png", 1, "\u732b", None)]))


def test_name_that_is_no_text_is_left_aside(tmp_path):
    fill(tmp_path, "1.png")
    os.rename(tmp_path / "1.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    fill(tmp_path, "2.png")
    assert aside(tmp_path) == [("caf\\udce9.png", "must have a name in UTF-8")]


def test_million_files_would_be_listed_in_20_seconds_and_flat_memory(tmp_path):
    for index in range(20_000):
        (tmp_path / f"{index}.png").touch()
    source = open_source(f"folder:{tmp_path}")
    tracemalloc.start()
    started = time.process_time()
    assert sum(1 for _ in source.scan()) == 20_000
    seconds = time.process_time() - started
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2_000_000
    # tracemalloc itself takes more than half of it.
    assert seconds < 20_000 / 50_000 * 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), r"must have an image \(.*\.jpg, .*\.webp\), got none"),
        (
            ("cat/1.png", "dog/1.png", "stray.png"),
            r"in it, got both: stray\.png beside cat, dog",
        ),
        (("train/cat/1.png", "train/dog/1.png", "val/1.png"), r"in val, got both: val/1\.png"),
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
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
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
