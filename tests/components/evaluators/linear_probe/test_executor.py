import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import tensorflow as tf

from components.evaluators.linear_probe import executor
from serving.export.generator import Generator, export_generator
from serving.export.metadata import Metadata
from tests import stand_ins
from tests.components.evaluators import artifacts

pytestmark = pytest.mark.slow

ROWS = [(artifacts.grey(level), label) for label, level in enumerate(artifacts.LEVELS)] * 8


def evaluate(tmp_path, rows=ROWS, class_names=stand_ins.CLASSES, write=stand_ins.write_generator, **options):
    made = artifacts.outputs(tmp_path)
    splits = {"train": rows, "eval": rows}
    executor.Executor().Do(
        artifacts.as_lists(
            examples=artifacts.write_examples(tmp_path / "examples", splits, class_names),
            model=artifacts.write_model(tmp_path / "model", write),
        ),
        artifacts.as_lists(evaluation=made["evaluation"]),
        {
            "batch_size": 8,
            "features_batch_size": 5,
            "epochs": 40,
            "learning_rate": 0.1,
            "class_dropout": 0.1,
            "seed": 0,
            **options,
        },
    )
    return json.loads(Path(made["evaluation"].uri, "evaluation.json").read_text())


def test_informative_block_is_the_best(tmp_path):
    evaluation = evaluate(tmp_path)
    metrics = evaluation["metrics"]
    assert (metrics["top1"], metrics["best_block"]) == (1.0, 2)
    assert [row["block"] for row in metrics["by_block"]] == [1, 2]
    assert metrics["by_block"][0]["top1"] < 0.5
    assert "top5" not in metrics  # meaningless with three classes
    assert evaluation["counts"] == {"train_images": 24, "eval_images": 24}
    assert evaluation["protocol"]["epochs"] == 40
    assert evaluation["warnings"] == []


def test_unlabelled_images_skip_the_probe_with_a_reason(tmp_path):
    evaluation = evaluate(tmp_path, [(artifacts.grey(0), None)] * 2, ())
    assert evaluation["skipped"] == "no labels"
    assert evaluation["metrics"] == {}


def test_every_image_is_encoded_once_for_all_epochs(tmp_path, monkeypatch):
    drawn = []

    def features(model, images, split, batch_size):
        assert batch_size == 5  # of the image model, not the probe's

        def one_pass():
            drawn.append(split)
            yield from zip(np.eye(3, 4).repeat(8, axis=0)[:, None], np.arange(3).repeat(8), strict=True)

        signature = (tf.TensorSpec([1, 4], tf.float32), tf.TensorSpec([], tf.int64))
        return tf.data.Dataset.from_generator(one_pass, output_signature=signature)

    monkeypatch.setattr(executor, "_features", features)
    evaluate(tmp_path)
    assert sorted(drawn) == ["eval", "train"]


def test_features_signature_takes_no_class(tmp_path):
    # Labels cannot leak into features that are computed without them.
    stand_ins.write_generator(str(tmp_path))
    _, inputs = tf.saved_model.load(str(tmp_path)).signatures["features"].structured_input_signature
    assert set(inputs) == {"image_bytes"}


def test_class_dropout_0_adds_a_warning(tmp_path):
    evaluation = evaluate(tmp_path, ROWS[:6], epochs=1, class_dropout=0.0)
    (warning,) = evaluation["warnings"]
    assert "was never trained" in warning


def write_another_generator(directory):
    """Write a generator of another size, grid, codebook and width.

    A token is 1 where its pixel is blue; the features of every block hold the share of such tokens.
    """
    size = 5

    def encode(pixels):
        return tf.reshape(tf.cast(pixels[..., 2] > pixels[..., 0], tf.int32), [-1, size * size])

    def features(tokens):
        share = tf.reduce_mean(tf.cast(tokens, tf.float32), axis=1)
        return tf.stack([tf.stack([share, -share], axis=-1)] * 3, axis=1)

    generator = Generator(
        Metadata("generator", "another", size, size * size, 2, (), stand_ins.VERSIONS),
        encode=encode,
        decode=lambda tokens: tf.zeros([tf.shape(tokens)[0], size, size, 3]),
        sample=lambda request: tf.zeros([tf.shape(request.seed)[0], size * size], tf.int32),
        log_likelihood=lambda tokens, _: tf.zeros([tf.shape(tokens)[0]]),
        features=features,
    )
    export_generator(directory, tf.Module(), generator)


def test_any_model_with_the_signatures_can_be_probed(tmp_path):
    red, blue = (np.full([8, 8, 3], colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    evaluation = evaluate(tmp_path, [(red, 0), (blue, 1)] * 8, ("red", "blue"), write=write_another_generator)
    assert [row["top1"] for row in evaluation["metrics"]["by_block"]] == [1.0, 1.0, 1.0]


def test_an_image_that_the_model_refuses_is_an_error(tmp_path):
    def refuse(image_bytes):
        rows = tf.shape(image_bytes)[0]
        return {"features": tf.zeros([rows, 1, 1]), "error": tf.fill([rows], "image must be whole")}

    model = Mock(signatures={"features": refuse})
    images = [artifacts.write_examples(tmp_path, {"train": ROWS}, stand_ins.CLASSES)]
    with pytest.raises(tf.errors.InvalidArgumentError, match="image must be whole"):
        list(executor._features(model, images, "train", 8))


def test_features_are_cached_in_16_bits_and_read_as_32(tmp_path):
    numbers = np.float32([[1.0, -3.14159, 1e-3], [1e6, -1e6, 0.0]])
    given = tf.data.Dataset.from_tensors((tf.constant(numbers), tf.constant(2, tf.int64)))
    dataset = executor._cached(given, str(tmp_path / "features"))
    for _ in range(2):
        ((feature, label),) = dataset
        assert (feature.dtype, int(label)) == (tf.float32, 2)
        np.testing.assert_allclose(feature[0], numbers[0], rtol=2**-11)
        np.testing.assert_array_equal(feature[1], [65504.0, -65504.0, 0.0])
    large = tf.data.Dataset.from_tensors((tf.zeros([10, 1000]), tf.constant(0, tf.int64)))
    list(executor._cached(large, str(tmp_path / "large")))
    assert sum(path.stat().st_size for path in tmp_path.glob("large.data*")) < 2.2 * 10_000
