import io
import tarfile

import pytest

from components.image_example_gen.images import Image
from components.image_example_gen.sources import LeftAside, SourceError, open_source, source_version
from tests.components.image_example_gen import pictures
from tests.components.image_example_gen.sources.reading import assert_images

JPEG, PNG = pictures.encoded(encoding="JPEG"), pictures.encoded()


def write(path, *members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_neighbours_of_one_name_are_one_sample(tmp_path, mode):
    write(
        tmp_path / "shard-0.tar",
        ("a/01.jpg", JPEG),
        ("a/01.cls", b"3\n"),
        ("a/01.json", b"{}"),
        ("a/02.cls", b"1"),
        ("a/02.seg.png", PNG),  # WebDataset's suffix is `seg.png`
        ("a/02.PNG", PNG),
        mode=mode,
    )

    def check(images):
        assert images == [
            Image("shard-0.tar/a/01", 3, "3", content=JPEG),
            Image("shard-0.tar/a/02", 1, "1", content=PNG),
        ]

    source = open_source(f"tar:{tmp_path}/*.tar")
    assert_images(source, check)
    aside = [one.file for one in source.scan() if isinstance(one, LeftAside)]
    assert aside == ["shard-0.tar/a/01.json", "shard-0.tar/a/02.seg.png"]


def test_first_words_of_shards_are_splits(tmp_path):
    for name in ("train-0.tar", "train-1.tar", "val-0.tar", "test-0.tar"):
        write(tmp_path / name, ("1.png", PNG))
    found = list(open_source(f"tar:{tmp_path}/*.tar").scan())
    aside = [one for one in found if isinstance(one, LeftAside)]
    assert aside == [("test-0.tar", "is another held-out split")]
    splits = {image.key: image.split for image in found if not isinstance(image, LeftAside)}
    assert splits == {"train-0.tar/1": "train", "train-1.tar/1": "train", "val-0.tar/1": "eval"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.jpg", JPEG), ("1.cls", b"cat")], r"tar: x\.tar/1\.cls must be -1 to 999999, got b'cat'"),
        ([("1.png", PNG), ("2.png", PNG), ("1.cls", b"0")], r"x\.tar/1\.cls must be beside its image"),
        ([("1.png", PNG), ("1.png", PNG)], r"x\.tar/1\.png must be there once, got it again"),
        ([("1.jpg", JPEG), ("1.png", PNG)], r"x\.tar/1 must have one image, got jpg, png"),
    ],
)
def test_ambiguous_samples_are_source_error(tmp_path, members, message):
    write(tmp_path / "x.tar", *members)
    with pytest.raises(SourceError, match=message):
        list(open_source(f"tar:{tmp_path}/x.tar").scan())


def test_members_that_cannot_be_read_are_left_aside(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w", encoding="latin-1", format=tarfile.USTAR_FORMAT) as archive:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("caf\xe9.png", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            archive.addfile(member, io.BytesIO(b""))
    reasons = [one.reason for one in open_source(f"tar:{tmp_path}/x.tar").scan()]
    assert reasons == ["is no regular file", "must have a name in UTF-8"]


def test_label_minus_1_is_none(tmp_path):
    write(tmp_path / "x.tar", ("1.png", PNG), ("1.cls", b"-1"))
    (image,) = open_source(f"tar:{tmp_path}/x.tar").scan()
    assert image.label is None


def test_other_files_are_source_error(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(SourceError, match=r"x\.tar must be a tar archive"):
        list(open_source(f"tar:{tmp_path}/x.tar").scan())
    with pytest.raises(SourceError, match="must match a file, got none"):
        open_source(f"tar:{tmp_path}/none-*")


def test_version_changes_with_the_files(tmp_path):
    write(tmp_path / "x.tar", ("1.png", PNG))
    before = source_version(f"tar:{tmp_path}/*.tar")
    write(tmp_path / "x.tar", ("1.png", PNG), ("2.png", PNG))
    assert source_version(f"tar:{tmp_path}/*.tar") != before
