import itertools
import threading
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import artifact_utils

from components.dataset import Dataset, TokenDataset, TooManyBroken, read_quarantine
from components.token_transform.tokenizer import Tokenizer
from tests import stand_ins
from tests.components.token_transform.encodings import (
    EVAL,
    TRAIN,
    counters,
    files,
    rows,
    run,
    write_images,
    write_model,
)

pytestmark = pytest.mark.slow

THREADS = ("--runner=FnApiRunner", "--direct_num_workers=3", "--direct_running_mode=multi_threading")
TWICE = ("--runner=FnApiRunner", "--direct_runner_bundle_repeat=1")  # the second run counts


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(str(tmp_path_factory.mktemp("model")))


def test_train_images_get_all_variants_and_eval_images_the_centre_crop(tmp_path, model):
    examples, _ = run(tmp_path / "tokens", write_images(tmp_path / "images"), model)
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


def test_rows_hold_tokens_and_label_but_no_image(tmp_path, model):
    examples, _ = run(tmp_path / "tokens", write_images(tmp_path / "images"), model)
    for row in rows(examples, "eval"):
        assert set(row) == {"tokens", "image/label", "image/key", "augmentation"}
        index = int(row["image/key"].bytes_list.value[0].decode().split("/")[1])
        assert row["image/label"].int64_list.value == [index % 3]
        # A stand-in token is the brightness in 16 levels.
        assert row["tokens"].int64_list.value == [np.round(20 * index / 255 * 15)] * stand_ins.TOKENS


def test_dataset_json_counts_token_rows_and_keeps_classes(tmp_path, model):
    images = write_images(tmp_path / "images")
    examples, _ = run(tmp_path / "tokens", images, model)
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


def test_files_do_not_depend_on_the_number_of_workers(tmp_path, model):
    images = write_images(tmp_path / "images")
    one, _ = run(tmp_path / "one", images, model, num_shards=2)
    two, _ = run(tmp_path / "two", images, model, THREADS, num_shards=2)
    assert files(one) == files(two)
    other, _ = run(tmp_path / "other", images, model, num_shards=2, seed=1)
    assert TokenDataset.read(other.uri).fingerprint != TokenDataset.read(one.uri).fingerprint


def test_unlabelled_images_give_unlabelled_rows(tmp_path, model):
    examples, _ = run(tmp_path / "tokens", write_images(tmp_path / "images", labelled=False), model)
    assert all("image/label" not in row for row in rows(examples, "train"))
    assert TokenDataset.read(examples.uri).class_names == ()


def test_only_the_undecodable_image_is_quarantined(tmp_path, model):
    images = write_images(tmp_path / "images", damaged=["train/4"], train=120)
    examples, _ = run(tmp_path / "tokens", images, model)
    dataset = TokenDataset.read(examples.uri)
    assert [entry.key for entry in read_quarantine(examples.uri)] == ["train/4"]
    assert (dataset.broken, dataset.records("train")) == (1, 3 * 119)


def test_too_many_broken_images_fail_without_output(tmp_path, model):
    images = write_images(tmp_path / "images", damaged=["train/4", "eval/0"])
    with pytest.raises(TooManyBroken, match=r"must be at most 1\.0%, got 2 of 13 .*15\.4%.*: eval/0"):
        run(tmp_path / "tokens", images, model)
    assert not list((tmp_path / "tokens").iterdir())
    examples, _ = run(tmp_path / "tokens", images, model, max_broken=0.2)
    assert len(read_quarantine(examples.uri)) == 2


def test_threads_of_one_process_share_one_model(tmp_path, model, monkeypatch):
    loads, load = [], tf.saved_model.load
    images = write_images(tmp_path / "images", train=40, shards=6)
    monkeypatch.setattr(tf.saved_model, "load", lambda path: loads.append(path) or load(path))
    _, result = run(tmp_path / "tokens", images, model, THREADS)
    assert len(loads) == 1
    assert counters(result)["load_milliseconds"] == 1


def test_next_batch_is_decoded_while_the_model_encodes(tmp_path, model, monkeypatch):
    crop, encode = Tokenizer.crop, Tokenizer.encode
    batches, second, in_time = itertools.count(1), threading.Event(), []

    def told_crop(self, batch):
        if next(batches) == 2:
            second.set()
        return crop(self, batch)

    def waiting_encode(self, pixels):
        in_time.append(second.wait(timeout=20))
        return encode(self, pixels)

    monkeypatch.setattr(Tokenizer, "crop", told_crop)
    monkeypatch.setattr(Tokenizer, "encode", waiting_encode)
    images = write_images(tmp_path / "images", train=16, shards=1)
    run(tmp_path / "tokens", images, model, augmentations=0, batch_size=8)
    assert all(in_time)


def test_counters_report_images_skipped_images_and_time(tmp_path, model):
    images = write_images(tmp_path / "images", damaged=["train/4"], train=120)
    _, result = run(tmp_path / "tokens", images, model)
    found = counters(result)
    assert set(found) == {"images", "skipped", "model_milliseconds", "load_milliseconds"}
    assert (found["images"], found["skipped"]) == (119 + EVAL, 1)
    assert found["model_milliseconds"] > 0


def test_repeated_bundles_leave_the_same_files(tmp_path, model, monkeypatch):
    images = write_images(tmp_path / "images")
    encoded, encode = [], Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, batch: encoded.append(batch) or encode(self, batch))
    once, _ = run(tmp_path / "once", images, model, num_shards=2)
    batches = len(encoded)
    twice, _ = run(tmp_path / "twice", images, model, TWICE, num_shards=2)
    assert len(encoded) == 3 * batches
    assert files(once) == files(twice)


def test_leftovers_of_a_killed_attempt_are_removed(tmp_path, model):
    images = write_images(tmp_path / "images")
    clean, _ = run(tmp_path / "clean", images, model)
    (tmp_path / "retried" / "Split-train").mkdir(parents=True)
    (tmp_path / "retried" / ".draft-0123").write_bytes(b"half a record")
    (tmp_path / "retried" / "quarantine.jsonl").write_text('{"key": "train/0", "reason": "of another try"}\n')
    retried, _ = run(tmp_path / "retried", images, model)
    assert files(retried) == files(clean)
