import pytest

from components.run_report import warnings
from tests.components.run_report import sample


def found(generation=None, protocol=None, counts=None, histories=None, config=None, alarms=None, **changes):
    """Warnings of a run that deserves none, with changes."""
    report = sample.report(**changes)
    metrics = report.metrics
    own = metrics["generation"]
    own |= generation or {}
    own["counts"] = {"samples": 50_000, "train_images": 50_000, "eval_images": 10_000, **(counts or {})}
    own["protocol"] |= {"dimensions": 64, **(protocol or {})}
    metrics["linear_probe"]["counts"] = {"eval_images": 10_000}
    return warnings.find(metrics, histories or {}, config or report.config, alarms or {})


def recognizer(**changes):
    return {"recognizer": {"network": "classifier", "classes": 10, "held_out_accuracy": 0.9, **changes}}


def test_a_sound_run_has_no_warning():
    assert found(protocol=recognizer()) == []


def test_a_classifier_at_chance_makes_its_scores_meaningless():
    (line,) = found(protocol=recognizer(held_out_accuracy=0.104))
    assert line == (
        "The classifier recognizes 10.4% of held-out images, and guessing 10.0%: class accuracy, FID and the "
        "Inception Score say nothing."
    )
    # Above chance by more than noise, which depends on the number of images.
    (line,) = found(protocol=recognizer(held_out_accuracy=0.12))
    assert line.startswith("The classifier recognizes only 12.0% of held-out images")
    lines = found(protocol=recognizer(held_out_accuracy=0.12), counts={"eval_images": 100})
    assert "guessing 10.0%" in lines[0]


def test_features_of_another_network_do_not_depend_on_the_classifier():
    weak = recognizer(held_out_accuracy=0.3)
    (line,) = found(protocol={**weak, "features": "inception_2015"})
    assert line == "The classifier recognizes only 30.0% of held-out images: class accuracy is rough."
    rotations = {"network": "classifier", "classes": "rotations"}
    assert found(protocol={"recognizer": rotations, "features": "inception_2015"}) == []


def test_features_of_rotations_say_so():
    told = {"network": "classifier", "classes": "rotations"}
    (line,) = found(protocol={"recognizer": told})
    assert "tells rotations apart" in line


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"eval_images": 999}, "999 held-out images are few"),
        ({"samples": 9_999}, "FID of 9,999 samples is biased upwards"),
        ({"samples": 64}, "too high: 64 samples are fewer than its 64 features or as many"),
        ({"train_images": 63}, "too high: 63 training images are fewer than its 64 features"),
        ({"samples": 9, "train_images": 63}, "too high: 9 samples and 63 training images are fewer"),
    ],
)
def test_few_images_are_told(counts, said):
    (line,) = found(protocol=recognizer(), counts=counts)
    assert said in line


def test_an_unused_codebook_and_a_probe_within_noise_are_told():
    (line,) = found(protocol=recognizer(), reconstruction={"codebook_usage": 0.49})
    assert line.startswith("A batch of test images uses only 49.0% of the codes")
    (line,) = found(protocol=recognizer(), linear_probe={"top1": 0.505})
    assert line == "The linear probe, 50.5%, is within the noise of guessing, 50.0%."
    assert found(protocol=recognizer(), linear_probe={"top1": 0.52}) == []


RISING = [
    {"step": 100, "loss": 2.0, "eval_loss": 1.5},
    {"step": 200, "loss": 1.0, "eval_loss": 1.2},
    {"step": 300, "loss": 0.5, "eval_loss": 1.4},
]


def test_a_held_out_loss_that_rises_above_training_is_told_unless_the_best_weights_are_exported():
    (line,) = found(protocol=recognizer(), histories={"vim": RISING})
    assert line == (
        "The held-out loss of the image model has risen from 1.2 at step 200 to 1.4, above that of training, "
        "0.5: stage2.train.export=best keeps the weights of then."
    )
    config = {section: {"train": {"export": "best"}} for section in ("stage1", "classifier", "stage2")}
    assert found(protocol=recognizer(), histories={"vim": RISING}, config=config) == []
    for falls in (RISING[:2], [*RISING[:2], {"step": 300, "loss": 0.5, "eval_loss": 1.21}], []):
        assert found(protocol=recognizer(), histories={"tokenizer": falls}) == []
    # Noise of a training that has not memorized anything.
    above = [{**row, "loss": 3.0} for row in RISING]
    assert found(protocol=recognizer(), histories={"classifier": above}) == []


def test_copies_of_training_images_are_told_of():
    assert found({"memorization": 0.55, "intervals": {"memorization": [0.48, 0.61]}}) == []
    assert found({"memorization": None, "intervals": {"memorization": [None, None]}}) == []
    (line,) = found({"memorization": 0.7, "intervals": {"memorization": [0.65, 0.74]}})
    assert line.startswith("In 70.0% of all pairs a sample is nearer to a training image than a held-out")


def test_alarms_of_trainings_are_warnings():
    line = "discriminator at chance: real_logits is below 0.05"
    assert found(alarms={"tokenizer": [line], "vim": []}) == [f"In training the tokenizer: {line}"]
