import json
from pathlib import Path

import apache_beam as beam
import pytest
import tensorflow as tf
from tfx.types import artifact_utils, standard_artifacts

from components.dataset import Broken, Dataset, TooManyBroken, read_quarantine
from components.image_example_gen.executor import Executor
from components.image_example_gen.sources import SourceError
from components.tfrecords import read_records
from tests.components.image_example_gen import pictures
from tests.serving.export.image_files import FILES

pytestmark = pytest.mark.slow


def run(uri, source, workers=1, **properties):
    examples = standard_artifacts.Examples()
    examples.uri = str(uri)
    beam_args = ["--runner=FnApiRunner", f"--direct_num_workers={workers}"]
    if workers > 1:
        beam_args.append("--direct_running_mode=multi_threading")
    # Passing `beam_pipeline_args` instead would make TFX build a package of itself for remote workers.
    context = Executor.Context(make_beam_pipeline_fn=lambda: beam.Pipeline(argv=beam_args))
    defaults = {
        "splits": '{"train": 1, "eval": 1}',
        "num_shards": 1,
        "max_broken": 0.0,
        "ground": "#ffffff",
        "dataset_version": "",
        "options": "{}",
        "allow": "[]",
    }
    Executor(context).Do({}, {"examples": [examples]}, {"source": source, **defaults, **properties})
    return examples


def files(uri):
    return {str(path.relative_to(uri)): path.read_bytes() for path in Path(uri).rglob("*") if path.is_file()}


def records(uri, split):
    for path in sorted(Path(uri).glob(f"Split-{split}/*")):
        for record in read_records(str(path)):
            yield tf.train.Example.FromString(record).features.feature


@pytest.fixture
def photos(tmp_path):
    for index in range(12):
        pictures.write(
            tmp_path / "photos" / ("cat", "dog")[index % 2] / f"{index:02d}.jpg", 20 * index, "JPEG"
        )
    return tmp_path / "photos"


def test_digits_are_written_as_examples_of_mixed_classes(tmp_path):
    examples = run(tmp_path / "out", "digits", splits='{"train": 85, "eval": 15}')
    dataset = Dataset.read(examples.uri)
    assert dataset.class_names == tuple("0123456789")
    assert dataset.records("train") + dataset.records("eval") == 1797
    assert sorted(files(examples.uri)) == [
        "Split-eval/data_tfrecord-00000-of-00001",
        "Split-train/data_tfrecord-00000-of-00001",
        "dataset.json",
    ]
    assert artifact_utils.decode_split_names(examples.split_names) == ["train", "eval"]
    rows = list(records(examples.uri, "train"))
    assert len(rows) == dataset.records("train")
    # Neighbouring rows have many classes: rows are not grouped by class.
    assert len({row["image/label"].int64_list.value[0] for row in rows[:30]}) > 5


def test_each_image_is_in_one_split_with_its_bytes_and_class(tmp_path, photos):
    examples = run(tmp_path / "out", f"folder:{photos}")
    found = {
        row["image/key"].bytes_list.value[0].decode(): row
        for split in ("train", "eval")
        for row in records(examples.uri, split)
    }
    assert sorted(found) == sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
    for key, row in found.items():
        assert row["image/encoded"].bytes_list.value[0] == (photos / key).read_bytes()
        assert row["image/class"].bytes_list.value[0].decode() == key.split("/")[0]
        assert row["image/label"].int64_list.value[0] == ("cat", "dog").index(key.split("/")[0])


def test_files_do_not_depend_on_the_number_of_workers(tmp_path, photos):
    source = f"folder:{photos}"
    one = run(tmp_path / "one", source, num_shards=3)
    two = run(tmp_path / "two", source, workers=2, num_shards=3)
    assert files(one.uri) == files(two.uri)
    assert len(files(one.uri)) == 7


def test_fingerprint_changes_when_one_image_changes(tmp_path, photos):
    before = run(tmp_path / "before", f"folder:{photos}")
    pictures.write(photos / "cat" / "00.jpg", 255, "JPEG")
    after = run(tmp_path / "after", f"folder:{photos}")
    assert Dataset.read(before.uri).fingerprint != Dataset.read(after.uri).fingerprint


def test_broken_images_within_the_limit_are_quarantined(tmp_path, photos):
    (photos / "cat" / "half.jpg").write_bytes(pictures.encoded(9, "JPEG")[:-20])
    (photos / "dog" / "empty.png").write_bytes(b"")
    examples = run(tmp_path / "out", f"folder:{photos}", max_broken=2 / 14)
    dataset = Dataset.read(examples.uri)
    assert dataset.broken == 2
    assert dataset.records("train") + dataset.records("eval") == 12
    assert [entry.key for entry in read_quarantine(examples.uri)] == ["cat/half.jpg", "dog/empty.png"]
    assert read_quarantine(examples.uri)[1] == Broken("dog/empty.png", "is empty")


def test_too_many_broken_images_fail_the_run_without_output(tmp_path, photos):
    (photos / "cat" / "half.jpg").write_bytes(b"no image")
    with pytest.raises(TooManyBroken, match=r"^broken .* at most 5\.0%, got 1 of 13 .*7\.7%.*: cat/half"):
        run(tmp_path / "out", f"folder:{photos}", max_broken=0.05)
    assert not list((tmp_path / "out").iterdir())


def test_empty_split_fails_the_run(tmp_path):
    pictures.write(tmp_path / "photos" / "only.png")
    with pytest.raises(SourceError, match=r"split (train|eval) of .* must have an image, got"):
        run(tmp_path / "out", f"folder:{tmp_path}/photos")
    assert not list((tmp_path / "out").iterdir())


def test_source_splits_take_precedence_over_shares(tmp_path):
    for split, count in (("train", 2), ("val", 3)):
        for index in range(count):
            pictures.write(tmp_path / "photos" / split / f"{index}.png", index)
    dataset = Dataset.read(run(tmp_path / "out", f"folder:{tmp_path}/photos").uri)
    assert dataset.splits == {"train": {"records": 2, "shards": [2]}, "eval": {"records": 3, "shards": [3]}}
    assert dataset.class_names == ()


def test_the_class_names_of_tfrecords_come_from_the_records(tmp_path, photos):
    first = run(tmp_path / "first", f"folder:{photos}")
    again = run(tmp_path / "again", f"tfrecord:{first.uri}/Split-*/data_tfrecord-*")
    assert Dataset.read(again.uri).class_names == ("cat", "dog")
    content = json.loads((Path(again.uri) / "dataset.json").read_text())
    assert content["splits"]["train"]["records"] + content["splits"]["eval"]["records"] == 12


def test_partly_labelled_source_is_rejected(tmp_path):
    rows = [
        {"image/encoded": [pictures.encoded(10 * index)], "image/label": [index % 2 - 1]}
        for index in range(8)
    ]
    with tf.io.TFRecordWriter(str(tmp_path / "some.tfrecord")) as writer:
        for row in rows:
            writer.write(_example(row))
    with pytest.raises(Exception, match="labels for all or for none, got 4 with and 4 without"):
        run(tmp_path / "out", f"tfrecord:{tmp_path}/*.tfrecord")
    assert not list((tmp_path / "out").iterdir())


def _example(row) -> bytes:
    example = tf.train.Example()
    for name, value in row.items():
        feature = example.features.feature[name]
        (feature.bytes_list if isinstance(value[0], bytes) else feature.int64_list).value.extend(value)
    return example.SerializeToString()


def write_labels(path, labels, name=""):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for index, label in enumerate(labels):
            row = {"image/encoded": [pictures.encoded(10 * index)], "image/label": [label]}
            writer.write(_example(row | ({"image/class": [name.encode()]} if name else {})))


def test_a_single_class_is_no_class_and_said(tmp_path):
    write_labels(tmp_path / "one.tfrecord", [0] * 8, "face")
    dataset = Dataset.read(run(tmp_path / "out", f"tfrecord:{tmp_path}/one.tfrecord").uri)
    assert dataset.class_names == ()
    assert dataset.notes[-1] == "the only class face is no class: images are unlabelled"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [1, 2] * 8,
            r"without gaps, got no image with label 0; data.allow=\[empty_classes",
        ),
        ([0, 5000] * 8, "labels must count from 0 without gaps, got 5000 for 16 images"),
    ],
)
def test_labels_with_gaps_stop_the_run_unless_allowed(tmp_path, labels, message):
    write_labels(tmp_path / "some.tfrecord", labels)
    with pytest.raises(Exception, match=message):
        run(tmp_path / "out", f"tfrecord:{tmp_path}/some.tfrecord")
    if "allow" in message:
        allowed = run(tmp_path / "out", f"tfrecord:{tmp_path}/some.tfrecord", allow='["empty_classes"]')
        assert Dataset.read(allowed.uri).class_names == ("0", "1", "2")


def test_label_with_two_names_stops_the_run(tmp_path):
    write_labels(tmp_path / "a.tfrecord", [0] * 8, "cat")
    write_labels(tmp_path / "b.tfrecord", [0] * 8, "dog")
    with pytest.raises(Exception, match="label 0 must have one name, got cat and dog"):
        run(tmp_path / "out", f"tfrecord:{tmp_path}/*.tfrecord")


def test_images_are_written_as_people_see_them(tmp_path):
    kinds = ("JPEG, turned 6", "PNG, transparent", "GIF, animated", "JPEG, linear light")
    (tmp_path / "photos").mkdir()
    for index in range(16):
        (tmp_path / "photos" / f"{index:02d}.png").write_bytes(FILES[kinds[index % 4]].content)
    examples = run(tmp_path / "out", f"folder:{tmp_path / 'photos'}", ground="#102030")
    rows = [row for split in ("train", "eval") for row in records(examples.uri, split)]
    assert len(rows) == 16
    for row in rows:
        kind = kinds[int(row["image/key"].bytes_list.value[0][:2]) % 4]
        pixels = tf.io.decode_image(row["image/encoded"].bytes_list.value[0]).numpy()
        if kind == "PNG, transparent":
            assert pixels[0, 0].tolist() == [0x10, 0x20, 0x30]
        else:
            assert abs(pixels.astype(int) - FILES[kind].pixels.astype(int)).max() <= 3
