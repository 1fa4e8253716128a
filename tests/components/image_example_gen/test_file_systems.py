"""Sources on S3 and MinIO hold the same images as on this machine."""

import dataclasses
import gzip
import os

import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from components.image_example_gen import file_systems, survey
from components.image_example_gen.images import read
from components.image_example_gen.source_kinds import Reading
from components.image_example_gen.sources import LeftAside, SourceError, open_source, source_version
from components.tfrecords import BrokenRecord, serialize_example
from tests.components.image_example_gen import pictures
from tests.components.image_example_gen.sources import test_huggingface, test_parquet, test_tar
from tests.components.image_example_gen.sources.reading import assert_images
from tests.kubeflow import stores

# moto is a server of its own.
pytestmark = pytest.mark.slow

PLACE = f"{stores.BUCKET}/data"
SOURCES = (
    "folder:{}/classes",
    "folder:{}/split",
    "folder:{}/listed",
    "csv:{}/table/index.csv",
    "tfrecord:{}/records/*.tfrecord",
    "tar:{}/tars/part-[01].tar",
    "parquet:{}/tables/*/*.parquet",
    "huggingface:{}/hub",
)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """One source of each kind."""
    root = tmp_path_factory.mktemp("data")
    files = {
        "classes/cat/a.png": pictures.encoded(10),
        "classes/cat/.hidden": b"x",
        "classes/dog/deeper/b.jpg": pictures.encoded(200, encoding="JPEG"),
        "classes/dog/no_suffix": pictures.encoded(30),
        "classes/dog/notes.txt": b"not an image",
        "split/train/cat/a.png": pictures.encoded(10),
        "split/train/dog/b.png": pictures.encoded(20),
        "split/val/cat/c.png": pictures.encoded(30),
        "split/val/dog/d.png": pictures.encoded(40),
        "listed/one.png": pictures.encoded(10),
        "listed/two.png": pictures.encoded(20),
        "listed/train.txt": b"one.png 0\n",
        "listed/test.txt": b"two.png 1\n",
        "table/index.csv": b"path,label\nsub/a.png,cat\nsub/b.png,dog\n",
        "table/sub/a.png": pictures.encoded(10),
        "table/sub/b.png": pictures.encoded(20),
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    for folder in ("records", "tars", "tables/a"):
        (root / folder).mkdir(parents=True)
    for index in range(2):
        record = serialize_example({"image/encoded": pictures.encoded(index), "image/label": [index]})
        with tf.io.TFRecordWriter(str(root / f"records/{index}.tfrecord")) as writer:
            writer.write(record)
    packed = root / "records" / "2.tfrecord"
    packed.write_bytes(gzip.compress((root / "records/0.tfrecord").read_bytes()))
    for index in range(3):  # the pattern takes two of them
        test_tar.write(root / f"tars/part-{index}.tar", ("x.png", pictures.encoded(index)), ("x.cls", b"1"))
    pq.write_table(test_parquet.table(["cat", "dog"]), root / "tables/a/0.parquet")
    test_huggingface.save(root / "hub" / "train", [0, 1])
    test_huggingface.save(root / "hub" / "test", [1])
    return root


@pytest.fixture(scope="module", params=["s3", "minio"])
def store(request, here):
    with stores.serve(request.param) as server:
        for path in here.rglob("*"):
            if path.is_file():
                server.write(f"data/{path.relative_to(here)}", path.read_bytes())
        server.scheme = request.param
        yield server


@pytest.fixture
def remote(store, monkeypatch):
    for key, value in {**store.environment, "no_proxy": "127.0.0.1"}.items():
        monkeypatch.setenv(key, value)
    return f"{store.scheme}://{PLACE}"


def content(found):
    """Whatever a source has found, without where it is."""
    images = [one for one in found if not isinstance(one, LeftAside)]
    aside = [one for one in found if isinstance(one, LeftAside)]
    whole = [dataclasses.replace(image, content=read(image), path="") for image in images]
    return sorted(whole, key=lambda image: image.key), sorted(aside)


@pytest.mark.parametrize("source", SOURCES)
def test_images_and_what_is_left_aside_are_those_of_this_machine(here, remote, source):
    local, other = open_source(source.format(here)), open_source(source.format(remote))
    assert content(other.scan()) == content(local.scan())
    assert (other.class_names, other.notes) == (local.class_names, local.notes)
    expected = content(local.scan())[0]
    assert len(expected) >= 2

    def check(images):
        assert content(images)[0] == expected

    assert_images(other, check)


def test_the_version_changes_with_a_file(here, store, remote):
    source = f"folder:{remote}/changed"
    store.write("data/changed/a.png", pictures.encoded())
    before = source_version(source)
    assert source_version(source) == before
    store.write("data/changed/b.png", pictures.encoded())
    assert source_version(source) != before


def test_a_survey_reads_them(remote):
    found, _ = survey.survey(Reading(f"folder:{remote}/split"))
    assert found.splits == {"train": 2, "eval": 2}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("folder:{}/none", "must be a folder, got a missing path"),
        ("folder:{}/table/index.csv", "must be a folder, got a file"),
        ("tar:{}/none/*.tar", "must match a file, got none"),
        ("csv:{}/none.csv", "must be a CSV file in UTF-8"),
        ("parquet:{}/table/index.csv", "cannot be read"),
        ("folder:{}-of-somebody-else/x", "must be a folder, got a missing path"),
    ],
)
def test_what_is_not_there_is_one_line(remote, source, message):
    with pytest.raises(SourceError, match=message) as error:
        open_source(source.format(remote))
    assert "\n" not in str(error.value)


def test_an_image_that_was_removed_is_broken(remote):
    (image, *_) = (found for found in open_source(f"folder:{remote}/split").scan())
    gone = dataclasses.replace(image, path=f"{image.path}-gone")
    with pytest.raises(BrokenRecord, match="cannot be read"):
        read(gone)
    with pytest.raises(FileNotFoundError):
        file_systems.status(gone.path)


def test_a_copy_on_disk_is_removed(remote):
    with file_systems.on_disk(f"{remote}/records/0.tfrecord") as path:
        assert len(list(tf.data.TFRecordDataset(path))) == 1
    assert not tf.io.gfile.exists(path)
    assert os.path.basename(path) == "0.tfrecord"
