import json
from pathlib import Path

from components.evaluators.linear_probe.executor import Executor
from tests import stand_ins
from tests.components.evaluators import artifacts


def evaluate(tmp_path, rows, class_names):
    made = artifacts.outputs(tmp_path)
    splits = {"train": rows, "eval": rows}
    Executor().Do(
        artifacts.as_lists(
            examples=artifacts.write_examples(tmp_path / "examples", splits, class_names),
            model=artifacts.write_model(tmp_path / "model", stand_ins.write_generator),
        ),
        artifacts.as_lists(evaluation=made["evaluation"]),
        {"batch_size": 8, "epochs": 40, "learning_rate": 0.1, "seed": 0},
    )
    return json.loads(Path(made["evaluation"].uri, "evaluation.json").read_text())


def test_the_block_that_sees_the_image_is_the_best(tmp_path):
    rows = [(artifacts.grey(level), label) for label, level in enumerate(artifacts.LEVELS)] * 8
    evaluation = evaluate(tmp_path, rows, stand_ins.CLASSES)
    metrics = evaluation["metrics"]
    assert (metrics["top1"], metrics["best_block"]) == (1.0, 2)
    assert [row["block"] for row in metrics["by_block"]] == [1, 2]
    assert metrics["by_block"][0]["top1"] < 0.5
    assert "top5" not in metrics  # of three classes it says nothing
    assert evaluation["counts"] == {"train_images": 24, "eval_images": 24}
    assert evaluation["protocol"]["epochs"] == 40


def test_unlabelled_images_are_passed_over_and_it_says_so(tmp_path):
    evaluation = evaluate(tmp_path, [(artifacts.grey(0), None)] * 2, ())
    assert evaluation["skipped"] == "no labels"
    assert evaluation["metrics"] == {}
