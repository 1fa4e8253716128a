import io

import PIL.Image
import pytest
import tensorflow_datasets as tfds

from components.image_example_gen.source_kinds import SourceOptions
from components.image_example_gen.sources import SourceError, open_source, source_version
from tests.components.image_example_gen import pictures
from tests.components.image_example_gen.sources.reading import assert_images

CLASSES = ("dark", "grey", "bright")
GREY = io.BytesIO()
PIL.Image.new("L", (12, 8), 7).save(GREY, "PNG")
PIL_GREY = GREY.getvalue()
BYTES = {level: pictures.encoded(level) for level in (20, 120, 220)}


def prepare(data_dir, splits):
    """Write a data set, version 1.2.0, that no code in TFDS defines; `splits`: name -> labels."""

    def rows(labels):
        for index, label in enumerate(labels):
            image = io.BytesIO(BYTES[20 + 100 * max(label, 0)])
            yield index, {"image": image, "label": label, "note": "not wanted"}

    tfds.dataset_builders.store_as_tfds_dataset(
        name="shapes",
        version="1.2.0",
        features=tfds.features.FeaturesDict(
            {
                "note": tfds.features.Text(),
                "image": tfds.features.Image(encoding_format="png"),
                "label": tfds.features.ClassLabel(names=CLASSES),
            }
        ),
        split_datasets={split: list(rows(labels)) for split, labels in splits.items()},
        data_dir=str(data_dir),
    )


def assert_found(data_dir, expected):
    def check(images):
        assert sorted((image.split, image.class_name, image.label) for image in images) == expected
        assert {image.content for image in images} <= set(BYTES.values())
        assert len({image.key for image in images}) == len(images)
        assert all(image.key.startswith("shapes-") for image in images)

    assert_images(open_source("tfds:shapes", SourceOptions(str(data_dir))), check)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_prepared_data_set_keeps_its_stored_bytes_and_splits(tmp_path, name):
    prepare(tmp_path, {"train": [0, 1, 2], name: [1]})
    assert open_source("tfds:shapes:1.2.0", SourceOptions(str(tmp_path))).class_names == CLASSES
    assert_found(
        tmp_path,
        [("eval", "grey", 1), ("train", "bright", 2), ("train", "dark", 0), ("train", "grey", 1)],
    )


def test_data_set_without_eval_split_is_left_to_the_hash(tmp_path):
    prepare(tmp_path, {"train": [0], "extra": [1]})

    def check(images):
        assert [(image.split, image.label) for image in images] == [(None, 1), (None, 0)]

    assert_images(open_source("tfds:shapes", SourceOptions(str(tmp_path))), check)


def test_version_is_the_tfds_version(tmp_path):
    prepare(tmp_path, {"train": [0], "test": [1]})
    assert source_version("tfds:shapes", SourceOptions(str(tmp_path))) == "shapes/1.2.0 image label"


def test_unknown_data_set_is_source_error(tmp_path):
    with pytest.raises(SourceError, match=r"^tfds:no_such_thing cannot be loaded: Dataset no_such_thing"):
        open_source("tfds:no_such_thing", SourceOptions(str(tmp_path)))


def test_data_set_without_images_error_lists_its_features(tmp_path):
    tfds.dataset_builders.store_as_tfds_dataset(
        name="words",
        version="1.0.0",
        features=tfds.features.FeaturesDict({"word": tfds.features.Text()}),
        split_datasets={"train": [(0, {"word": "a"})]},
        data_dir=str(tmp_path),
    )
    with pytest.raises(SourceError, match=r"must have an image feature, got \['word'\]"):
        open_source("tfds:words", SourceOptions(str(tmp_path)))


def test_failed_download_is_source_error_raised_when_images_are_read(tmp_path, monkeypatch):
    def fail(builder):
        raise ConnectionError("Name or service not known\nand a long story")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    assert source_version("tfds:mnist:3.0.1", SourceOptions(str(tmp_path))) == "mnist/3.0.1 image label"
    with pytest.raises(SourceError, match=r"^tfds:mnist:3.0.1 cannot be downloaded: Name or service"):
        open_source("tfds:mnist:3.0.1", SourceOptions(str(tmp_path))).images()


def store(data_dir, features, rows, **options):
    tfds.dataset_builders.store_as_tfds_dataset(
        name="pets",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": list(enumerate(rows))},
        data_dir=str(data_dir),
        **options,
    )


def two_of_each(data_dir, *names):
    """A data set with two images and two labels under the given names."""
    image, mask, label, species = names
    features = {
        mask: tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
        image: tfds.features.Image(encoding_format="png"),
        label: tfds.features.ClassLabel(names=["a", "b"]),
        species: tfds.features.ClassLabel(names=["cat", "dog", "cow"]),
    }
    grey = io.BytesIO(PIL_GREY)
    row = {mask: grey, image: io.BytesIO(BYTES[20]), label: 1, species: 2}
    store(data_dir, features, [row])


def test_features_called_image_and_label_are_used_beside_others(tmp_path):
    two_of_each(tmp_path, "image", "mask", "label", "species")
    source = open_source("tfds:pets", SourceOptions(str(tmp_path)))
    assert source.class_names == ("a", "b")
    assert source.notes == ("image is the feature image, label label",)
    (image,) = source.scan()
    assert (image.content, image.label, image.class_name) == (BYTES[20], 1, "b")


def test_configuration_chooses_features_and_the_choice_is_in_the_version(tmp_path):
    two_of_each(tmp_path, "image", "mask", "label", "species")
    chosen = SourceOptions(str(tmp_path), image_feature="mask", label_feature="species")
    source = open_source("tfds:pets", chosen)
    (image,) = source.scan()
    assert (image.content, image.class_name) == (PIL_GREY, "cow")
    unlabelled = open_source("tfds:pets", SourceOptions(str(tmp_path), label_feature=""))
    assert unlabelled.class_names == ()
    usual = source_version("tfds:pets", SourceOptions(str(tmp_path)))
    assert len({source.version(), unlabelled.version(), usual}) == 3


def test_supervised_keys_take_precedence_over_names(tmp_path, monkeypatch):
    two_of_each(tmp_path, "image", "mask", "label", "species")
    monkeypatch.setattr(tfds.core.DatasetInfo, "supervised_keys", ("mask", "species"))
    assert open_source("tfds:pets", SourceOptions(str(tmp_path))).class_names == ("cat", "dog", "cow")


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("photo", "mask", "label", "species"), {}, "data.image_feature must be one of mask, photo$"),
        (
            ("image", "mask", "breed", "species"),
            {},
            'label_feature must be one of breed, species or "" for none$',
        ),
        (
            ("image", "mask", "label", "species"),
            {"image_feature": "label"},
            "one of image, mask, got 'label'",
        ),
        (("image", "mask", "label", "species"), {"label_feature": "breed"}, "of label, species, got 'breed'"),
    ],
)
def test_other_names_are_not_guessed(tmp_path, names, options, message):
    two_of_each(tmp_path, *names)
    with pytest.raises(SourceError, match=message):
        open_source("tfds:pets", SourceOptions(str(tmp_path), **options))
