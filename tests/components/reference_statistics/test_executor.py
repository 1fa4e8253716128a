import numpy as np
import pytest
import tensorflow as tf

from components.evaluators import examples, moments_file
from components.reference_statistics import stored
from components.reference_statistics.executor import Executor
from serving.export.records import DamagedFile
from tests import stand_ins
from tests.components.evaluators import artifacts
from tests.components.evaluators.test_protocols import saved_model

pytestmark = pytest.mark.slow

SIZE = stand_ins.SIZE
LEVELS = np.random.default_rng(0).integers(0, 256, (11, SIZE, SIZE, 3), np.uint8)
# Two images have no label, and the classifier tells classes by brightness.
TRAIN = [(image, label) for image, label in zip(LEVELS, [0, 1, 2, None] * 3, strict=False)]
EVAL = [(artifacts.grey(level), label) for level, label in ((0, 0), (119, 1), (238, 0), (10, None))]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return artifacts.as_lists(
        examples=artifacts.write_examples(folder / "examples", {"train": TRAIN, "eval": EVAL}),
        classifier=artifacts.write_model(folder / "classifier", stand_ins.write_classifier),
    )


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return f"savedmodel:{saved_model(tmp_path_factory.mktemp('network') / 'model')}#mean"


@pytest.fixture(scope="module")
def reference(inputs, network, tmp_path_factory):
    return [artifacts.write_reference(tmp_path_factory.mktemp("made") / "it", inputs, 3, network)]


def read(reference, split):
    """All images of a split, by place."""
    counts = stored.read_reference(reference)["files"][split]
    files = zip(examples.split_files(reference, split), counts, strict=True)
    batches = [batch for file, count in files for batch in stored.read_shard(file, count)]
    rows = [
        row
        for batch in batches
        for row in zip(batch.places, batch.features.features, batch.thumbnails, strict=True)
    ]
    return sorted(rows, key=lambda row: row[0])


def moments_of(reference):
    return moments_file.read(stored.moments_path(reference[0].uri, "train"))


def in_stored_order(inputs, split):
    (batch,) = examples.read_dataset(inputs["examples"], split, 100).as_numpy_iterator()
    return np.stack([tf.io.decode_png(image).numpy() for image in batch["image_bytes"]])


def test_every_image_is_stored_by_its_place_with_features_and_itself(reference, inputs):
    expected = in_stored_order(inputs, "train")
    places, vectors, pictures = zip(*read(reference, "train"), strict=True)
    assert list(places) == list(range(11))
    np.testing.assert_allclose(vectors, expected.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(pictures, expected)


def test_moments_are_of_the_split_and_in_the_form_of_adms_evaluator(reference, inputs):
    means = in_stored_order(inputs, "train").mean(axis=(1, 2))
    moments = moments_of(reference)
    assert moments.count == 11
    np.testing.assert_allclose(moments.mean, means.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.covariance, np.cov(means, rowvar=False), rtol=1e-4)
    with np.load(f"{reference[0].uri}/train.npz") as arrays:
        assert {"mu", "sigma"} <= set(arrays)


def test_the_description_says_what_scores_depend_on(reference):
    described = stored.read_reference(reference)
    assert described["features"] == "savedmodel#mean"
    assert (described["dimensions"], described["counts"]) == (3, {"train": 11, "eval": 4})
    assert described["dataset"] == "0123456789abcdef"
    assert len(described["weights"]) == 16
    # Of three with a label the third is bright and called dark.
    assert described["accuracy"] == pytest.approx(2 / 3)


def test_the_files_are_the_same_for_several_workers(reference, inputs, network, tmp_path):
    threads = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")
    again = [artifacts.write_reference(tmp_path / "again", inputs, 3, network, threads)]
    for name in ("Split-train/data_tfrecord-00000-of-00002", "Split-eval/data_tfrecord-00001-of-00002"):
        one, other = (tf.io.gfile.GFile(f"{made[0].uri}/{name}", "rb").read() for made in (reference, again))
        assert one == other
    np.testing.assert_allclose(
        moments_of(again).covariance,
        moments_of(reference).covariance,
        rtol=1e-12,
    )


def test_a_file_that_was_cut_between_records_is_named(reference):
    (path, *_) = examples.split_files(reference, "train")
    with pytest.raises(DamagedFile, match="must have 9 images, got 6"):
        list(stored.read_shard(path, 9))


def test_a_network_that_fails_leaves_no_description(inputs, tmp_path, monkeypatch):
    def fail(*images):
        raise OSError("disk full")

    monkeypatch.setattr(stored, "serialize", fail)
    with pytest.raises(Exception, match="disk full"):
        artifacts.write_reference(tmp_path / "failed", inputs)
    assert not (tmp_path / "failed" / stored.REFERENCE_FILE).exists()
    assert list((tmp_path / "failed").glob("Split-*/*")) == []


def test_an_empty_split_is_refused(tmp_path, inputs, monkeypatch):
    def refuse(self):
        raise AssertionError("a Beam pipeline was made")

    monkeypatch.setattr(Executor, "_make_beam_pipeline", refuse)
    empty = artifacts.write_examples(tmp_path / "examples", {"train": TRAIN, "eval": []})
    with pytest.raises(ValueError, match="'eval' must hold at least one image"):
        artifacts.write_reference(tmp_path / "it", {**inputs, "examples": [empty]})
