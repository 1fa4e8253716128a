import functools
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components.evaluators.generation import executor
from components.evaluators.generation.executor import Executor
from components.image_sampler import executor as image_sampler
from components.metrics import frechet_samples
from components.metrics.frechet import frechet_distance
from components.metrics.moments import moments
from serving.export.classifier import ROTATIONS
from serving.export.sampling_params import SamplingParams
from tests import stand_ins
from tests.components.evaluators import artifacts
from tests.components.evaluators.test_protocols import saved_model

pytestmark = pytest.mark.slow

REAL = [(artifacts.grey(level), label) for label, level in enumerate(artifacts.LEVELS)] * 2


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    """A function that runs the executor in a new folder; models are written once."""

    @functools.cache
    def model(write, **options):
        return artifacts.write_model(tmp_path_factory.mktemp("model"), write, **options)

    def run(
        class_names=stand_ins.CLASSES,
        beam_args=(),
        sampling=None,
        batch_size=4,
        thresholds="{}",
        features="classifier",
        real=REAL,
        told=stand_ins.CLASSES,
        **drawing,
    ):
        folder = tmp_path_factory.mktemp("evaluation")
        made = artifacts.outputs(folder)
        splits = {"train": REAL, "eval": real}
        generator = model(stand_ins.write_generator, class_names=class_names)
        samples = artifacts.artifact(standard_artifacts.Examples, folder / "samples")
        image_sampler.Executor(artifacts.beam_context()).Do(
            artifacts.as_lists(model=generator),
            artifacts.as_lists(examples=samples),
            {
                "samples": 30,
                "acceptance": 1.0,
                "sampling": SamplingParams(**(sampling or {})).model_dump_json(),
                "shard_size": 7,
                "batch_size": 4,
                "drawn": str(folder / "drawn"),
                "pushed": "",
                **drawing,
            },
        )
        inputs = artifacts.as_lists(
            examples=artifacts.write_examples(folder / "examples", splits, class_names),
            classifier=model(stand_ins.write_classifier, class_names=told),
        )
        reference = artifacts.write_reference(folder / "reference", inputs, batch_size, features, beam_args)
        Executor(artifacts.beam_context(*beam_args)).Do(
            {**inputs, **artifacts.as_lists(reference=reference, samples=samples, model=generator)},
            artifacts.as_lists(**made),
            {
                "batch_size": batch_size,
                "thresholds": thresholds,
                "features": features,
                "features_version": "",
            },
        )
        written = Path(made["evaluation"].uri)
        names = ("samples", "neighbours", "kept")
        arrays = [dict(np.load(path)) for name in names for path in written.glob(f"{name}.npz")]
        return json.loads((written / "evaluation.json").read_text()), *arrays

    return run


@pytest.fixture
def nothing_runs(monkeypatch):
    def refuse(self):
        raise AssertionError("a Beam pipeline was made")

    monkeypatch.setattr(Executor, "_make_beam_pipeline", refuse)


@pytest.fixture(scope="module")
def greedy(evaluate):
    """The evaluation of greedy samples, which equal the real images."""
    thresholds = json.dumps({"class_accuracy": {"min": 0.9}})
    return evaluate(sampling={"temperature": 0.0}, thresholds=thresholds)


def test_fid_of_perfect_samples_is_the_sample_count_bias(greedy):
    # The sets are equal, but unbiased covariances over 30 and over 6 images differ: FID is
    # (sqrt(30/29) - sqrt(6/5))^2 times the population variance, which lies along one direction because the
    # four features are equal.
    variance = 4 * np.var(np.array(artifacts.LEVELS) / 255)
    expected = variance * (np.sqrt(30 / 29) - np.sqrt(6 / 5)) ** 2
    assert greedy[0]["metrics"]["fid"] == pytest.approx(expected, rel=1e-3)
    assert greedy[0]["metrics"]["fid_eval"] == pytest.approx(0.0, abs=1e-9)


def test_every_class_is_recognized(greedy):
    assert greedy[0]["metrics"]["class_accuracy"] == 1.0
    assert greedy[0]["metrics"]["is"] == pytest.approx(3.0, rel=1e-3)
    assert greedy[0]["blessed"]


def test_evaluation_records_protocol_and_counts(greedy):
    assert greedy[0]["counts"] == {
        "samples": 30,
        "candidates": 30,
        "train_images": 6,
        "eval_images": 6,
        "matched": 6,
        "subset": 6,
        "train_subset": 6,
        "sought": 30,
        "held_out_sought": 6,
    }
    assert greedy[0]["protocol"]["acceptance"] == 1.0
    assert greedy[0]["protocol"]["sampling"]["temperature"] == 0.0
    protocol = greedy[0]["protocol"]
    assert (protocol["features"], protocol["dimensions"], len(protocol["weights"])) == ("classifier", 4, 16)
    assert protocol["recognizer"] == {
        "network": "classifier",
        "weights": protocol["weights"],
        "classes": 3,
        "held_out_accuracy": 1.0,
    }


def test_real_images_are_compared_with_as_many_samples(greedy, evaluate):
    # The first six samples are the six real images.
    assert greedy[0]["metrics"]["fid_matched"] == pytest.approx(0.0, abs=1e-9)
    evaluation, *_ = evaluate(samples=3, sampling={"temperature": 0.0})
    assert evaluation["counts"]["matched"] == 3
    variance = 4 * np.var(np.array(artifacts.LEVELS) / 255)
    bias = variance * (np.sqrt(3 / 2) - np.sqrt(6 / 5)) ** 2
    for name in ("fid", "fid_matched", "fid_eval"):
        assert evaluation["metrics"][name] == pytest.approx(bias, rel=1e-3), name


def test_another_network_scores_and_the_classifier_recognizes(evaluate, tmp_path):
    place = saved_model(tmp_path / "colours")
    evaluation, samples, *_ = evaluate(
        sampling={"temperature": 0.0}, features=f"savedmodel:{place}#mean", acceptance=0.5
    )
    metrics, protocol = evaluation["metrics"], evaluation["protocol"]
    assert metrics["class_accuracy"] == 1.0
    assert {"is", "is_std"}.isdisjoint(metrics)
    assert (protocol["features"], protocol["resize"]) == ("savedmodel#mean", "the network's own")
    assert protocol["weights"] != protocol["recognizer"]["weights"]
    assert protocol["dimensions"] == 3
    # Three equal features in levels of 255, where the classifier has four of brightness.
    variance = 3 * np.var(np.array(artifacts.LEVELS))
    bias = variance * (np.sqrt(30 / 29) - np.sqrt(6 / 5)) ** 2
    assert metrics["fid"] == pytest.approx(bias, rel=1e-3)
    assert len(samples["images"]) == 24


def test_the_accuracy_of_the_recognizer_is_on_held_out_images(evaluate):
    wrong = [(artifacts.grey(artifacts.LEVELS[0]), 1)]
    evaluation, *_ = evaluate(samples=3, real=[*REAL, *wrong, (artifacts.grey(0), None)])
    assert evaluation["protocol"]["recognizer"]["held_out_accuracy"] == pytest.approx(6 / 7)


def test_eight_samples_of_each_class_are_kept(greedy):
    samples = greedy[1]
    assert samples["classes"].tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert [int(image.max()) for image in samples["images"][::8]] == list(artifacts.LEVELS)


def test_samples_depend_on_the_seed_and_not_on_batch_size(evaluate):
    sets = [
        evaluate(samples=10, sampling={"seed": seed}, batch_size=batch_size)
        for seed, batch_size in ((3, 4), (3, 7), (4, 4))
    ]
    np.testing.assert_array_equal(sets[0][1]["images"], sets[1][1]["images"])
    assert sets[0][0]["metrics"] == pytest.approx(sets[1][0]["metrics"], rel=1e-3)
    assert (sets[0][1]["images"] != sets[2][1]["images"]).any()


def test_real_images_in_other_features_are_refused(evaluate, nothing_runs, monkeypatch):
    read = executor.read_reference
    monkeypatch.setattr(executor, "read_reference", lambda artifact: {**read(artifact), "weights": "0ld"})
    with pytest.raises(ValueError, match=r"must be in the features of .*, got classifier 0ld"):
        evaluate(samples=3)


def test_without_labels_nothing_is_recognized_and_a_threshold_on_it_is_missed(evaluate):
    thresholds = json.dumps({"class_accuracy": {"min": 0.9}})
    evaluation, samples, _ = evaluate(class_names=(), told=ROTATIONS, thresholds=thresholds)
    assert {"class_accuracy", "is"}.isdisjoint(evaluation["metrics"])
    assert evaluation["protocol"]["recognizer"]["classes"] == "rotations"
    assert "held_out_accuracy" not in evaluation["protocol"]["recognizer"]
    assert not evaluation["blessed"]
    (failed,) = evaluation["failed_thresholds"]
    assert failed["reason"] == "class_accuracy was not measured, it needs images with classes"
    assert len(samples["images"]) == 30


def test_a_recognizer_of_its_own_classes_gives_an_inception_score_without_labels(evaluate):
    evaluation, *_ = evaluate(class_names=())
    assert "class_accuracy" not in evaluation["metrics"]
    assert 1.0 <= evaluation["metrics"]["is"] <= 3.0
    assert evaluation["protocol"]["recognizer"]["classes"] == 3


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Images 0 to 47, sampled directly, and the classifier's probability of their class."""
    folder = str(tmp_path_factory.mktemp("straight"))
    stand_ins.write_generator(folder)
    numbers = np.arange(48)
    class_id = tf.constant(numbers % 3, tf.int32)
    answer = tf.saved_model.load(folder).signatures["generate"](
        class_id=class_id,
        seed=tf.constant(numbers, tf.int64),
        temperature=tf.ones([48]),
        top_k=tf.zeros([48], tf.int32),
        top_p=tf.ones([48]),
        guidance_scale=tf.ones([48]),
    )
    images = np.stack([tf.io.decode_image(png).numpy() for png in answer["image_bytes"]])
    logits, _ = stand_ins.classify(tf.constant(images / 255.0, tf.float32))
    return images, tf.gather(tf.nn.softmax(logits), class_id, axis=1, batch_dims=1).numpy()


def test_acceptance_1_is_plain_sampling(evaluate, straight):
    _, samples, _ = evaluate(acceptance=1.0)
    expected = np.concatenate([straight[0][class_id:24:3] for class_id in range(3)])
    np.testing.assert_array_equal(samples["images"], expected)


@pytest.fixture(scope="module")
def rejected(evaluate):
    """10 samples (4, 3 and 3 of a class) kept of 40 candidates (16, 12 and 12)."""
    return evaluate(samples=10, acceptance=0.25)


def test_most_likely_samples_of_each_class_are_kept(rejected, straight):
    evaluation, samples, *_ = rejected
    images, sureness = straight
    kept = []
    for class_id, (count, drawn) in enumerate(((4, 16), (3, 12), (3, 12))):
        numbers = np.arange(class_id, 3 * drawn, 3)
        likeliest = numbers[np.lexsort((numbers, -sureness[numbers]))][:count]
        kept.extend(sorted(likeliest))
    assert samples["classes"].tolist() == [0] * 4 + [1] * 3 + [2] * 3
    np.testing.assert_array_equal(samples["images"], images[kept])
    assert evaluation["counts"]["samples"] == 10
    assert evaluation["counts"]["candidates"] == 40
    assert evaluation["protocol"]["acceptance"] == 0.25
    # Scores are computed from the kept images.
    seen = [
        moments(stand_ins.classify(tf.constant(np.stack(shown) / 255.0, tf.float32))[1].numpy())
        for shown in (samples["images"], [image for image, _ in REAL])
    ]
    assert evaluation["metrics"]["fid"] == pytest.approx(frechet_distance(*seen), rel=1e-3)


def test_two_workers_keep_the_same_images_as_one(evaluate, rejected):
    workers = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")
    evaluation, samples, *_ = evaluate(samples=10, acceptance=0.25, beam_args=workers)
    np.testing.assert_array_equal(samples["images"], rejected[1]["images"])
    assert evaluation["metrics"] == pytest.approx(rejected[0]["metrics"], rel=1e-9, abs=1e-9)


def test_no_score_of_a_whole_set_depends_on_the_number_of_workers(evaluate):
    workers = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")
    one, two = (evaluate(samples=60, beam_args=args)[0] for args in ((), workers))
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-9, abs=1e-9)
    for name, ends in one["intervals"].items():
        assert two["intervals"][name] == pytest.approx(ends, rel=1e-9, abs=1e-9), name


@pytest.mark.usefixtures("nothing_runs")
def test_rejection_with_other_classes_than_the_classifiers_is_refused(evaluate):
    line = r"acceptance must be 1\.0 for a model whose classes are not the classifier's, got 0\.5$"
    with pytest.raises(ValueError, match=line):
        evaluate(class_names=("a", "b"), acceptance=0.5)


def test_numbers_of_kept_samples_are_written_down(rejected, straight):
    _, sureness = straight
    first = np.arange(0, 48, 3)
    likeliest = first[np.lexsort((first, -sureness[first]))][:4]
    kept = rejected[3]["numbers"]
    assert len(kept) == 10
    assert sorted(number for number in kept if number % 3 == 0) == sorted(likeliest)


def test_the_pushed_models_samples_are_scored_by_the_same_network(evaluate, tmp_path):
    def grey_only(request):
        return 7 + 0 * stand_ins.sample(request)

    stand_ins.write_generator(str(tmp_path / "4"), sample=grey_only)
    evaluation, samples, near = evaluate(
        sampling={"temperature": 0.0},
        pushed=str(tmp_path),
        thresholds=json.dumps({"class_accuracy": {"worse_by": 0.0}, "fid": {"worse_by": 0.0}}),
    )
    assert evaluation["blessed"]
    assert evaluation["metrics"]["class_accuracy"] == 1.0
    assert evaluation["pushed"]["version"] == "4"
    assert evaluation["pushed"]["metrics"]["class_accuracy"] == pytest.approx(1 / 3)
    assert evaluation["pushed"]["metrics"]["fid"] > evaluation["metrics"]["fid"]
    assert len(np.unique(samples["images"])) == 3  # those of the new model are shown
    assert len(np.unique(near["samples"])) == 3
    assert "memorization" in evaluation["pushed"]["metrics"]


def test_neighbours_are_the_nearest_training_images(greedy):
    near = greedy[2]
    assert near["classes"].tolist() == [0, 1, 2] * 4
    levels = near["samples"][:, 0, 0, 0]
    assert levels.tolist() == list(artifacts.LEVELS) * 4
    # Of six training images two equal each sample; the third is of the level next to it.
    by_features = near["by"] == 0
    assert near["of"][by_features].tolist() == np.repeat(np.arange(12), 3).tolist()
    for sample in range(12):
        rows = by_features & (near["of"] == sample)
        assert near["images"][rows][:2, 0, 0, 0].tolist() == [levels[sample]] * 2
        assert near["images"][rows][2, 0, 0, 0] != levels[sample]
    by_pixels = near["by"] == 1
    np.testing.assert_array_equal(near["images"][by_pixels], near["samples"])
    np.testing.assert_allclose(near["distances"][by_pixels], 0.0, atol=1e-6)


def test_copies_are_seen_beside_new_held_out_images(evaluate, greedy):
    # Of equal distances, 0, each counts half.
    assert greedy[0]["metrics"]["memorization"] == 0.5
    new = [(artifacts.grey(level), 0) for level in (40, 60, 80, 160, 180, 200)]
    evaluation, *_ = evaluate(sampling={"temperature": 0.0}, real=new)
    assert evaluation["metrics"]["memorization"] == 1.0
    assert evaluation["intervals"]["memorization"] == [1.0, 1.0]


def test_kernel_distance_and_neighbourhoods_are_of_equal_counts(greedy):
    metrics, counts = greedy[0]["metrics"], greedy[0]["counts"]
    assert counts["subset"] == 6
    # The first six samples equal the training images.
    assert (metrics["precision"], metrics["recall"], metrics["coverage"]) == (1.0, 1.0, 1.0)
    assert metrics["kid"] < 0.0  # unbiased: of equal sets it is below 0
    assert "kid_std" not in metrics  # every subset would be the whole set


def test_the_interval_of_fid_is_that_of_random_groups_of_the_samples(evaluate, straight):
    evaluation, *_ = evaluate(samples=48, sampling={"seed": 0})
    features = stand_ins.classify(tf.constant(straight[0] / 255.0, tf.float32))[1].numpy()
    order = np.random.default_rng(0).permutation(48) % frechet_samples.GROUPS
    groups = [moments(features[order == group]) for group in range(frechet_samples.GROUPS)]
    real = stand_ins.classify(tf.constant(np.stack([image for image, _ in REAL]) / 255.0, tf.float32))[1]
    expected = frechet_samples.interval(groups, moments(real.numpy()), evaluation["metrics"]["fid"])
    assert evaluation["intervals"]["fid"] == pytest.approx(expected, rel=1e-3)


def test_scores_of_few_samples_have_no_interval_of_fid(evaluate):
    evaluation, *_ = evaluate(samples=10)
    assert set(evaluation["intervals"]) == {"precision", "memorization", "class_accuracy"}
