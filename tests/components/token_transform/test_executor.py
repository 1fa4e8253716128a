from collections import Counter
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from tfx.types import artifact_utils, standard_artifacts

from components.dataset import Dataset, TokenDataset, TooManyBroken, read_quarantine
from components.tfrecords import read_records, serialize_example
from components.token_transform.executor import Executor
from tests import stand_ins
from tests.components.image_example_gen import pictures

TRAIN, EVAL = 10, 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    artifact = standard_artifacts.Model()
    artifact.uri = str(tmp_path_factory.mktemp("model"))
    stand_ins.write_tokenizer(artifact.uri + "/Format-Serving")
    return artifact


def write_images(uri, damaged=(), labelled=True, train=TRAIN):
    """Two shards a split; image i of a split has brightness 20 i and label i mod 3."""
    counts = {"train": train, "eval": EVAL}
    for split, count in counts.items():
        (uri / f"Split-{split}").mkdir(parents=True)
        for shard in range(2):
            path = uri / f"Split-{split}" / f"data_tfrecord-{shard:05d}-of-00002"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for index in range(shard, count, 2):
                    key = f"{split}/{index}"
                    content = pictures.encoded(20 * index % 256, size=(16, 10))
                    features = {
                        "image/key": key.encode(),
                        "image/encoded": content[:-30] if key in damaged else content,
                    }
                    if labelled:
                        features["image/label"] = [index % 3]
                    writer.write(serialize_example(features))
    Dataset(
        source="test",
        fingerprint="0123456789abcdef",
        class_names=stand_ins.CLASSES if labelled else (),
        splits={split: {"records": count} for split, count in counts.items()},
    ).write(str(uri))
    artifact = standard_artifacts.Examples()
    artifact.uri = str(uri)
    artifact.split_names = artifact_utils.encode_split_names(["train", "eval"])
    return artifact


def run(uri, images, model, workers=1, **properties):
    examples = standard_artifacts.Examples()
    examples.uri = str(uri)
    beam_args = ["--runner=FnApiRunner", f"--direct_num_workers={workers}"]
    if workers > 1:
        beam_args.append("--direct_running_mode=multi_threading")
    # Arguments alone would make TFX build a package of itself for remote workers.
    context = Executor.Context(make_beam_pipeline_fn=lambda: beam.Pipeline(argv=beam_args))
    defaults = {"augmentations": 2, "min_scale": 0.5, "flip": 1, "seed": 0, "batch_size": 4, "num_shards": 1}
    Executor(context).Do(
        {"images": [images], "model": [model]}, {"examples": [examples]}, {**defaults, **properties}
    )
    return examples


def rows(examples, split):
    return [
        tf.train.Example.FromString(record).features.feature
        for path in sorted(Path(examples.uri).glob(f"Split-{split}/*"))
        for record in read_records(str(path))
    ]


def files(uri):
    return {str(path.relative_to(uri)): path.read_bytes() for path in Path(uri).rglob("*") if path.is_file()}


def test_training_images_get_all_variants_and_the_others_the_centre_crop(tmp_path, model):
    examples = run(tmp_path / "tokens", write_images(tmp_path / "images"), model)
    variants = {
        split: Counter(
            (row["image/key"].bytes_list.value[0].decode(), row["augmentation"].int64_list.value[0])
            for row in rows(examples, split)
        )
        for split in ("train", "eval")
    }
    assert variants == {
        "train": Counter((f"train/{index}", variant) for index in range(TRAIN) for variant in range(3)),
        "eval": Counter((f"eval/{index}", 0) for index in range(EVAL)),
    }


def test_rows_hold_the_models_tokens_the_label_and_no_image(tmp_path, model):
    examples = run(tmp_path / "tokens", write_images(tmp_path / "images"), model)
    for row in rows(examples, "eval"):
        assert set(row) == {"tokens", "image/label", "image/key", "augmentation"}
        index = int(row["image/key"].bytes_list.value[0].decode().split("/")[1])
        assert row["image/label"].int64_list.value == [index % 3]
        # A stand-in token is the brightness in 16 levels.
        assert row["tokens"].int64_list.value == [np.round(20 * index / 255 * 15)] * stand_ins.TOKENS


def test_the_sidecar_counts_token_rows_and_keeps_the_classes(tmp_path, model):
    images = write_images(tmp_path / "images")
    examples = run(tmp_path / "tokens", images, model)
    dataset = TokenDataset.read(examples.uri)
    assert {split: dataset.records(split) for split in ("train", "eval")} == {
        "train": 3 * TRAIN,
        "eval": EVAL,
    }
    assert dataset.class_names == stand_ins.CLASSES
    assert (dataset.augmentations, dataset.tokens, dataset.codebook_size) == (2, stand_ins.TOKENS, 16)
    assert dataset.fingerprint != Dataset.read(images.uri).fingerprint
    assert artifact_utils.decode_split_names(examples.split_names) == ["train", "eval"]
    assert examples.get_string_custom_property("payload_format") == "FORMAT_TF_EXAMPLE"


def test_the_files_are_the_same_whatever_the_workers(tmp_path, model):
    images = write_images(tmp_path / "images")
    one = run(tmp_path / "one", images, model, num_shards=2)
    two = run(tmp_path / "two", images, model, workers=2, num_shards=2)
    assert files(one.uri) == files(two.uri)
    other = run(tmp_path / "other", images, model, num_shards=2, seed=1)
    assert TokenDataset.read(other.uri).fingerprint != TokenDataset.read(one.uri).fingerprint


def test_unlabelled_images_give_unlabelled_rows(tmp_path, model):
    examples = run(tmp_path / "tokens", write_images(tmp_path / "images", labelled=False), model)
    assert all("image/label" not in row for row in rows(examples, "train"))
    assert TokenDataset.read(examples.uri).class_names == ()


def test_an_image_that_cannot_be_decoded_is_quarantined_once_and_its_neighbours_are_not(tmp_path, model):
    images = write_images(tmp_path / "images", damaged=["train/4"], train=120)
    examples = run(tmp_path / "tokens", images, model)
    dataset = TokenDataset.read(examples.uri)
    assert [entry.key for entry in read_quarantine(examples.uri)] == ["train/4"]
    assert (dataset.broken, dataset.records("train")) == (1, 3 * 119)


def test_more_than_one_percent_stops_and_leaves_nothing(tmp_path, model):
    images = write_images(tmp_path / "images", damaged=["train/4", "eval/0"])
    with pytest.raises(TooManyBroken, match=r"^2 of 13 images .*15\.4%.*, allowed are 1\.0%: eval/0"):
        run(tmp_path / "tokens", images, model)
    assert not (tmp_path / "tokens").exists()
