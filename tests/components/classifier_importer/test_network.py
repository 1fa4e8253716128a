import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.classifier_importer import network
from components.classifier_importer.names import NETWORKS, NetworkFiles

NAMES = ("cat", "dog", "egg")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """ResNet-50 of three classes with random weights, its file, and the names of its classes in a file."""
    folder = tmp_path_factory.mktemp("theirs")
    keras.utils.set_random_seed(3)
    model = keras.applications.ResNet50(weights=None, classes=len(NAMES))
    model.save_weights(folder / "net.weights.h5")
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    return model, NetworkFiles("ResNet50", str(folder / "net.weights.h5"), str(folder / "names.txt"))


@pytest.fixture(scope="module")
def loaded(theirs):
    return network.load(theirs[1])


@pytest.fixture(scope="module")
def photographs():
    return np.random.default_rng(0).uniform(size=(2, 256, 256, 3)).astype(np.float32)


def test_the_central_224_of_256_pixels_get_kerass_own_answer(theirs, loaded, photographs):
    # What keras.applications does to images for this family: BGR, minus ImageNet's mean.
    centre = 255 * photographs[:, 16:240, 16:240, ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    logits, features = loaded.classify(tf.constant(photographs))
    expected = theirs[0](centre, training=False).numpy()
    np.testing.assert_allclose(tf.nn.softmax(logits).numpy(), expected, atol=1e-5)
    pooled = keras.Model(theirs[0].input, theirs[0].get_layer("avg_pool").output)(centre, training=False)
    np.testing.assert_allclose(features.numpy(), pooled.numpy(), rtol=1e-4, atol=1e-5)
    assert (loaded.class_names, loaded.resize) == (NAMES, "central 7/8, bilinear to 224")


def test_images_of_another_size_are_resized_and_a_flat_one_stays_flat(loaded, photographs):
    small = tf.fill([1, 32, 32, 3], 0.25)
    large = tf.fill([1, 256, 256, 3], 0.25)
    for ours, other in zip(loaded.classify(small), loaded.classify(large), strict=True):
        np.testing.assert_allclose(ours.numpy(), other.numpy(), rtol=1e-4, atol=1e-5)


def test_logits_follow_the_datas_classes_and_features_do_not(loaded, photographs):
    told = network.of_classes(loaded, ("egg", "cat"))
    (few, same), (every, features) = (one.classify(tf.constant(photographs)) for one in (told, loaded))
    assert told.class_names == ("egg", "cat")
    np.testing.assert_array_equal(few.numpy(), every.numpy()[:, [2, 0]])
    np.testing.assert_array_equal(same.numpy(), features.numpy())
    assert network.of_classes(loaded, ()) is loaded


def test_a_class_that_the_network_does_not_tell_is_one_line(loaded):
    line = (
        "must have each class of the data once, got 0 of 'cow' among 'cat', ..., 'egg': name them in a file"
    )
    with pytest.raises(network.ClassifierError, match=re.escape(line)):
        network.of_classes(loaded, ("cat", "cow"))
    twice = loaded._replace(class_names=("crane", "crane", "egg"))
    with pytest.raises(network.ClassifierError, match="got 2 of 'crane'"):
        network.of_classes(twice, ("crane",))


def test_classes_are_imagenets_by_default():
    names = network._class_names("")
    assert (len(names), names[0], names[-1]) == (1000, "n01440764", "n15075141")
    assert list(names) == sorted(names)


def test_the_version_follows_the_files(theirs, tmp_path):
    files = theirs[1]
    (tmp_path / "names.txt").write_text("cat\ndog\nhen\n")
    versions = {network.version(files), network.version(files._replace(classes=str(tmp_path / "names.txt")))}
    assert len(versions) == 2
    assert network.version(NetworkFiles("ResNet50")).startswith(f"keras-{keras.__version__}-")
    with pytest.raises(network.ClassifierError, match="classifier must have the file /nowhere"):
        network.version(files._replace(weights="/nowhere"))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"weights": "/nowhere.h5"}, "classifier.weights must be a file that exists, got /nowhere.h5"),
        ({"weights": "{0}/text.h5"}, "classifier.weights must be ResNet50's of 3 classes with its top"),
        ({"classes": "{0}/two.txt"}, "classifier.weights must be ResNet50's of 2 classes with its top"),
        ({"classes": "{0}/one.txt"}, "classifier.classes must have two or more, got 1 in"),
        ({"classes": "/nowhere.txt"}, "classifier.classes must be a text file, got /nowhere.txt"),
        ({"classes": "{0}/latin1.txt"}, "classifier.classes must be a text file"),
        ({"network": "ResNet50V2"}, "classifier.weights must be ResNet50V2's of 3 classes with its top"),
    ],
)
def test_what_does_not_fit_is_one_line(theirs, tmp_path, change, line):
    (tmp_path / "text.h5").write_text("no weights")
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    (tmp_path / "one.txt").write_text("cat\n\n")
    (tmp_path / "latin1.txt").write_bytes("Käse\nBrot\n".encode("latin-1"))
    files = theirs[1]._replace(**{key: value.format(tmp_path) for key, value in change.items()})
    with pytest.raises(network.ClassifierError, match=re.escape(line)) as raised:
        network.load(files)
    assert "\n" not in str(raised.value)


def test_weights_that_are_not_there_are_never_another_networks(monkeypatch):
    def offline(**options):
        assert options["weights"] == "imagenet"
        raise Exception("URL fetch failure on https://...")  # as Keras does

    monkeypatch.setattr(keras.applications, "ResNet101", offline)
    with pytest.raises(network.ClassifierError, match=r"cannot be downloaded .* into ~/\.keras/models, or"):
        network.load(NetworkFiles("ResNet101"))


def test_keras_own_weights_are_of_imagenets_classes(theirs):
    with pytest.raises(network.ClassifierError, match="must have 1000 names without"):
        network.load(theirs[1]._replace(weights=""))


# The smallest of each family but ResNet's: how images are prepared, and where the head is, differs.
@pytest.mark.nightly
@pytest.mark.parametrize(
    "name",
    [
        "ResNet50V2",
        "DenseNet121",
        "VGG16",
        "VGG19",
        "InceptionV3",
        "InceptionResNetV2",
        "Xception",
        "EfficientNetV2B0",
        "ConvNeXtTiny",
    ],
)
def test_a_network_of_every_family_answers_as_kerass_own(name, theirs, photographs, tmp_path):
    keras.utils.set_random_seed(3)
    model = getattr(keras.applications, name)(weights=None, classes=len(NAMES))
    model.save_weights(tmp_path / "net.weights.h5")
    loaded = network.load(theirs[1]._replace(network=name, weights=str(tmp_path / "net.weights.h5")))
    size = model.input_shape[1]
    centre = tf.image.resize(photographs[:, 16:240, 16:240], [size, size], antialias=True)
    prepared = getattr(keras.applications, NETWORKS[name]).preprocess_input(255.0 * centre)
    logits, features = loaded.classify(tf.constant(photographs))
    np.testing.assert_allclose(
        tf.nn.softmax(logits).numpy(), model(prepared, training=False).numpy(), atol=1e-5
    )
    kernel, bias = model.layers[-1].get_weights()
    np.testing.assert_allclose(features @ kernel + bias, logits.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_name_is_a_network_of_keras_with_its_own_preparation(name):
    assert callable(getattr(keras.applications, name))
    family = getattr(keras.applications, NETWORKS[name])
    assert hasattr(family, name)
    assert callable(family.preprocess_input)
