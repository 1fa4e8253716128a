import json
from pathlib import Path

import numpy as np
import pytest

from components.evaluators.generation.executor import Executor
from tests import stand_ins
from tests.components.evaluators import artifacts

REAL = [(artifacts.grey(level), label) for label, level in enumerate(artifacts.LEVELS)] * 2


def evaluate(tmp_path, class_names=stand_ins.CLASSES, **properties):
    made = artifacts.outputs(tmp_path)
    splits = {"train": REAL, "eval": REAL}
    Executor(artifacts.beam_context()).Do(
        artifacts.as_lists(
            examples=artifacts.write_examples(tmp_path / "examples", splits, class_names),
            model=artifacts.write_model(
                tmp_path / "model", stand_ins.write_generator, class_names=class_names
            ),
            classifier=artifacts.write_model(tmp_path / "classifier", stand_ins.write_classifier),
        ),
        artifacts.as_lists(**made),
        {
            "samples": 30,
            "batch_size": 4,
            "seed": 0,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "guidance": 1.0,
            "thresholds": "{}",
            **properties,
        },
    )
    folder = Path(made["evaluation"].uri)
    return json.loads((folder / "evaluation.json").read_text()), dict(np.load(folder / "samples.npz"))


@pytest.fixture(scope="module")
def greedy(tmp_path_factory):
    """The stand-in generator without scatter draws exactly the real images."""
    thresholds = json.dumps({"class_accuracy": {"min": 0.9}})
    return evaluate(tmp_path_factory.mktemp("greedy"), temperature=0.0, thresholds=thresholds)


def test_a_generator_of_real_images_is_as_close_as_its_count_allows(greedy):
    # Equal sets, but unbiased covariances over 30 and over 6 images: (sqrt(30/29) - sqrt(6/5))^2 of
    # the population variance, which lies along one direction of four equal features.
    variance = 4 * np.var(np.array(artifacts.LEVELS) / 255)
    expected = variance * (np.sqrt(30 / 29) - np.sqrt(6 / 5)) ** 2
    assert greedy[0]["metrics"]["fid"] == pytest.approx(expected, rel=1e-3)
    assert greedy[0]["metrics"]["fid_eval"] == pytest.approx(0.0, abs=1e-9)


def test_every_class_is_recognized(greedy):
    assert greedy[0]["metrics"]["class_accuracy"] == 1.0
    assert greedy[0]["metrics"]["is"] == pytest.approx(3.0, rel=1e-3)
    assert greedy[0]["blessed"]


def test_protocol_and_counts_are_told(greedy):
    assert greedy[0]["counts"] == {"samples": 30, "train_images": 6, "eval_images": 6}
    assert greedy[0]["protocol"]["sampling"]["temperature"] == 0.0
    assert greedy[0]["protocol"]["features"] == "classifier"


def test_eight_samples_of_each_class_are_kept(greedy):
    samples = greedy[1]
    assert samples["classes"].tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert [int(image.max()) for image in samples["images"][::8]] == list(artifacts.LEVELS)


def test_a_seed_draws_one_set_whatever_the_batch_and_another_seed_another(tmp_path):
    sets = [
        evaluate(tmp_path / name, samples=10, **properties)
        for name, properties in {
            "one": {"seed": 3},
            "same": {"seed": 3, "batch_size": 7},
            "other": {"seed": 4},
        }.items()
    ]
    np.testing.assert_array_equal(sets[0][1]["images"], sets[1][1]["images"])
    assert sets[0][0]["metrics"] == pytest.approx(sets[1][0]["metrics"], rel=1e-3)
    assert (sets[0][1]["images"] != sets[2][1]["images"]).any()


def test_without_classes_there_is_no_class_accuracy_and_no_failure(tmp_path):
    evaluation, samples = evaluate(
        tmp_path, class_names=(), thresholds=json.dumps({"class_accuracy": {"min": 0.9}})
    )
    assert "class_accuracy" not in evaluation["metrics"]
    assert evaluation["blessed"]
    assert len(samples["images"]) == 30
