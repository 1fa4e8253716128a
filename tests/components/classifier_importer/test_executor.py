import keras
import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components.classifier_importer import network
from components.classifier_importer.executor import Executor
from components.evaluators.features import ClassifierFeatures
from components.model_validator.executor import validate
from components.saved_model import SavedModel
from serving.export.signatures import read_metadata
from tests import stand_ins
from tests.components.evaluators import artifacts

THEIRS = tuple(reversed(stand_ins.CLASSES))


@pytest.fixture
def import_network(monkeypatch, tmp_path):
    """Import a linear network of three classes for data with the given ones."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(3)])

    def classify(pixels):
        means = tf.reduce_mean(pixels, axis=[1, 2])
        return model(means), means

    loaded = network.Recognizer(model, THEIRS, "to its mean", classify)
    monkeypatch.setattr(network, "load", lambda files: loaded)

    def imported(name, class_names):
        row = (artifacts.grey(100), 0 if class_names else None)
        splits = {"train": [row] * 2, "eval": [row] * 2}
        examples = artifacts.write_examples(tmp_path / name / "examples", splits, class_names)
        output = artifacts.artifact(standard_artifacts.Model, tmp_path / name / "model")
        properties = {
            "network": "ResNet50",
            "weights": "net.h5",
            "classes": "names.txt",
            "preset": "ours",
            "image_size": stand_ins.SIZE,
            "ground": "#ffffff",
            "max_image_pixels": 5000,
        }
        Executor().Do({"examples": [examples]}, {"model": [output]}, properties)
        return SavedModel.of([output])

    return imported


def test_the_exported_network_tells_the_datas_classes_and_passes_validation(import_network):
    exported = import_network("labelled", stand_ins.CLASSES)
    metadata = read_metadata(exported.load())
    assert metadata.class_names == stand_ins.CLASSES
    assert (metadata.kind, metadata.preset, metadata.image_size) == ("classifier", "ours", stand_ins.SIZE)
    assert metadata.max_image_pixels == 5000
    checks = validate(exported.path)
    assert checks
    assert [check for check in checks if check.reason] == []


def test_features_of_an_evaluator_say_what_they_are_of(import_network):
    features = ClassifierFeatures(import_network("labelled", stand_ins.CLASSES))
    about = features.about()
    assert (about["architecture"], about["resize"]) == ("ResNet50 of keras.applications", "to its mean")
    assert not features.tells_rotations
    answer = features.load()(np.full([2, stand_ins.SIZE, stand_ins.SIZE, 3], 51, np.uint8))
    np.testing.assert_allclose(answer.features, np.full([2, 3], 0.2), rtol=1e-6)


def test_without_labels_it_tells_its_own_classes(import_network):
    unlabelled, labelled = (import_network(*given) for given in (("none", ()), ("all", stand_ins.CLASSES)))
    assert unlabelled.metadata().class_names == THEIRS
    pixels = tf.random.stateless_uniform([2, stand_ins.SIZE, stand_ins.SIZE, 3], [1, 2])
    own, told = (
        one.load().signatures["classify_pixels"](pixels=pixels)["logits"].numpy()
        for one in (unlabelled, labelled)
    )
    np.testing.assert_array_equal(own[:, ::-1], told)


def test_classes_that_it_does_not_have_leave_no_model(import_network, tmp_path):
    with pytest.raises(network.ClassifierError, match="got 0 of 'violet'"):
        import_network("other", ("dark", "violet"))
    assert not (tmp_path / "other" / "model").exists()
