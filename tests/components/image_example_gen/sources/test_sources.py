import pytest

from components.image_example_gen.source_kinds import SourceOptions
from components.image_example_gen.sources import SourceError, open_source, source_version


@pytest.mark.parametrize("name", ["", "digit", "digits:3", "folder:", "tfds:", "tfrecord:", "zip:a.zip"])
def test_unknown_source_error_lists_allowed_sources(name):
    with pytest.raises(
        SourceError,
        match=r"must be one of digits, folder:DIR, csv:FILE, tfds:NAME, tfrecord:PATTERN, tar:PATTERN, ",
    ):
        open_source(name)


def test_digits_version_is_the_scikit_learn_version():
    assert source_version("digits").startswith("scikit-learn-1.")


def test_features_are_refused_by_sources_without_any():
    for options in (SourceOptions(image_feature="x"), SourceOptions(label_feature="")):
        with pytest.raises(SourceError, match=r"data\.(image|label)_feature must be absent for folder:DIR"):
            open_source("folder:/", options)
