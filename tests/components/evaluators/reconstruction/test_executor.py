import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.evaluators.reconstruction.executor import Executor
from serving.export.tokenizer import export_tokenizer
from tests import stand_ins
from tests.components.evaluators import artifacts
from tests.components.evaluators.test_protocols import saved_model

pytestmark = pytest.mark.slow


def evaluate(
    tmp_path,
    eval_rows,
    thresholds=None,
    class_names=stand_ins.CLASSES,
    pushed="",
    features="classifier",
    lpips="",
    beam_args=(),
):
    made = artifacts.outputs(tmp_path)
    Executor(artifacts.beam_context(*beam_args)).Do(
        artifacts.as_lists(
            examples=artifacts.write_examples(
                tmp_path / "examples", {"train": [], "eval": eval_rows}, class_names
            ),
            model=artifacts.write_model(tmp_path / "model", stand_ins.write_tokenizer, identity=5),
            classifier=artifacts.write_model(tmp_path / "classifier", stand_ins.write_classifier),
        ),
        artifacts.as_lists(**made),
        {
            "batch_size": 4,
            "thresholds": json.dumps(thresholds or {}),
            "pushed": pushed,
            "features": features,
            "features_version": "",
            "lpips": lpips,
            "lpips_version": "1pip5",
        },
    )
    folder = Path(made["evaluation"].uri)
    return (
        json.loads((folder / "evaluation.json").read_text()),
        np.load(folder / "pairs.npz"),
        made["blessing"],
        np.load(folder / "ranked.npz"),
        np.load(folder / "codes.npz"),
    )


@pytest.fixture(scope="module")
def lossless(tmp_path_factory):
    """The evaluation of images whose levels, multiples of 17, the stand-in tokenizer reconstructs exactly."""
    rows = [(artifacts.grey(17 * level), level % 3) for level in (0, 7, 14) for _ in range(3)]
    return evaluate(tmp_path_factory.mktemp("lossless"), rows, {"psnr": {"min": 50.0}})


def test_lossless_tokenizer_has_zero_error(lossless):
    metrics = lossless[0]["metrics"]
    assert metrics["l1"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["fid"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["psnr"] == pytest.approx(100.0)
    assert metrics["ssim"] == pytest.approx(1.0)
    assert "lpips" not in metrics
    assert lossless[0]["intervals"]["psnr"] == pytest.approx([100.0, 100.0])


def test_codebook_usage_and_perplexity_are_measured(lossless):
    metrics, counts = lossless[0]["metrics"], lossless[0]["counts"]
    assert metrics["codebook_usage"] == metrics["codebook_used"] == pytest.approx(3 / 16)
    assert metrics["codebook_perplexity"] == pytest.approx(3.0)
    assert counts == {"images": 9, "usage_batches": 1}
    assert lossless[0]["protocol"]["usage_batch"] == 9


def test_three_confident_classes_have_inception_score_3(lossless):
    assert lossless[0]["metrics"]["is"] == pytest.approx(3.0, rel=1e-3)


def test_lpips_is_measured_by_the_network_that_is_named(tmp_path):
    spec = tf.TensorSpec([None, None, None, 3], tf.float32)

    @tf.function(input_signature=[spec, spec])
    def distance(a, b):
        return {"distance": tf.reduce_max(tf.abs(a - b), axis=[1, 2, 3])}

    tf.saved_model.save(tf.Module(), str(tmp_path / "lpips"), signatures={"distance": distance})
    rows = [(artifacts.grey(level), 0) for level in (8, 9, 17, 17)]
    evaluation, *_ = evaluate(tmp_path / "run", rows, lpips=str(tmp_path / "lpips"))
    # Two are off by 8 levels, of which 255 are the 2 of [-1, 1], and two are exact.
    off = 8 / 127.5
    assert evaluation["metrics"]["lpips"] == pytest.approx(off / 2, rel=1e-5)
    low, high = evaluation["intervals"]["lpips"]
    assert high - low == pytest.approx(2 * 1.959964 * off / np.sqrt(3) / 2, rel=1e-3)
    assert evaluation["protocol"]["lpips"] == "1pip5"


def test_another_network_scores_reconstructions(tmp_path):
    place = saved_model(tmp_path / "colours")
    rows = [(artifacts.grey(level), 0) for level in (8, 9)]
    evaluation, *_ = evaluate(tmp_path / "run", rows, features=f"savedmodel:{place}#mean")
    # In levels: 8 becomes 0 and 9 becomes 17, in three features alike.
    step = (np.std([0, 17], ddof=1) - np.std([8, 9], ddof=1)) * np.sqrt(3)
    assert evaluation["metrics"]["fid"] == pytest.approx(step**2, rel=1e-3)
    assert "is" not in evaluation["metrics"]
    assert evaluation["protocol"]["features"] == "savedmodel#mean"
    assert evaluation["protocol"]["recognizer"]["held_out_accuracy"] == 1.0


def test_blessing_records_the_model_id(lossless):
    assert lossless[2].get_int_custom_property("blessed") == 1
    assert lossless[2].get_int_custom_property("current_model_id") == 5


def test_pairs_are_kept_for_the_report(lossless):
    pairs = lossless[1]
    assert pairs["originals"].shape == (9, 8, 8, 3)
    np.testing.assert_array_equal(pairs["originals"], pairs["reconstructions"])
    assert sorted(pairs["labels"].tolist()) == [0] * 3 + [1] * 3 + [2] * 3


def test_known_error_is_measured_and_fails_the_threshold(tmp_path):
    # Level 8 of 255 rounds to 0 and level 9 to 17, so every pixel is off by 8/255.
    rows = [(artifacts.grey(level), None) for level in (8, 9, 8, 9)]
    evaluation, _, blessing, *_ = evaluate(tmp_path, rows, {"psnr": {"min": 50.0}}, class_names=())
    off = 8 / 255
    assert evaluation["metrics"]["l1"] == pytest.approx(off, rel=1e-4)
    assert evaluation["metrics"]["l2"] == pytest.approx(off**2, rel=1e-4)
    assert evaluation["metrics"]["psnr"] == pytest.approx(-20 * np.log10(off), rel=1e-4)
    # The features are four equal brightnesses, of variance (0.5/255)^2 4/3 before and (8.5/255)^2 4/3 after.
    step = (8.5 - 0.5) / 255 * np.sqrt(4 / 3)
    assert evaluation["metrics"]["fid"] == pytest.approx(4 * step**2, rel=1e-3)
    assert evaluation["failed_thresholds"][0]["metric"] == "psnr"
    assert blessing.get_int_custom_property("blessed") == 0


def test_empty_eval_split_is_error(tmp_path):
    with pytest.raises(ValueError, match="split 'eval' must hold at least one image, got none"):
        evaluate(tmp_path, [])


def write_brighter(directory):
    """Write a tokenizer that decodes every patch 0.1 brighter than the stand-in."""

    def decode(tokens):
        pixels, mu, log_scale = stand_ins.decode(tokens)
        return tf.minimum(pixels + 0.1, 1.0), mu, log_scale

    metadata = stand_ins.metadata("tokenizer")
    export_tokenizer(directory, tf.Module(), metadata, encode=stand_ins.encode, decode=decode)


@pytest.mark.parametrize("worse", [False, True])
def test_the_last_pushed_tokenizer_is_measured_on_the_same_images(tmp_path, monkeypatch, worse):
    new, old = stand_ins.write_tokenizer, write_brighter
    if worse:
        new, old = old, new
    old(str(tmp_path / "served" / "1"))
    monkeypatch.setattr(stand_ins, "write_tokenizer", new)
    rows = [(artifacts.grey(17 * level), level % 3) for level in (0, 7)]
    thresholds = {"l1": {"worse_by": 0.05}}
    evaluation, pairs, *_ = evaluate(tmp_path, rows, thresholds, pushed=str(tmp_path / "served"))
    values = evaluation["metrics"]["l1"], evaluation["pushed"]["metrics"]["l1"]
    assert values == pytest.approx((0.1, 0.0) if worse else (0.0, 0.1), abs=1e-6)
    assert evaluation["pushed"]["version"] == "1"
    assert evaluation["blessed"] != worse
    # The pictures are of the new tokenizer.
    shift = int(pairs["reconstructions"].max()) - int(pairs["originals"].max())
    assert shift in ((25, 26) if worse else (0,))


def test_best_median_and_worst_of_all_images_are_kept(tmp_path):
    # A level's error is its distance from a multiple of 17.
    rows = [(artifacts.grey(17 * step + off), 0) for off in range(9) for step in range(3)]
    *_, ranked, _ = evaluate(tmp_path, rows)
    assert str(ranked["by"]) == "psnr"
    assert ranked["groups"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    off = ranked["originals"][:, 0, 0, 0] % 17
    # Three images of each error: of the worst, 8, all three come first.
    assert off.tolist() == [0, 0, 0, 1, 4, 4, 4, off[7], 8, 8, 8, 7]
    assert off[7] in (3, 5)
    off = np.maximum(off, 1e-9)
    expected = np.minimum(-20 * np.log10(off / 255), 100.0)
    assert ranked["values"] == pytest.approx(expected)


def test_codes_are_counted(lossless):
    counts = lossless[4]["counts"]
    assert counts.shape == (16,)
    # Three images of each of the levels 0, 7 and 14, four patches each.
    assert counts[[0, 7, 14]].tolist() == [counts.sum() / 3] * 3


def test_no_score_depends_on_the_number_of_workers(tmp_path):
    rows = [(artifacts.grey(level), level % 3) for level in range(0, 200, 5)]
    workers = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")
    one, two = (
        evaluate(tmp_path / str(number), rows, beam_args=args)[0] for number, args in enumerate(((), workers))
    )
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-9, abs=1e-9)
    assert two["intervals"]["psnr"] == pytest.approx(one["intervals"]["psnr"], rel=1e-9)
