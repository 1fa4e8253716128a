import pytest

from components.image_example_gen.sources import SourceError, open_source, source_version


@pytest.mark.parametrize("name", ["", "digit", "digits:3", "folder:", "tfds:", "tfrecord:", "zip:a.zip"])
def test_an_unknown_source_is_told_what_is_allowed(name):
    with pytest.raises(SourceError, match=r"allowed are digits, folder:DIR, tfds:NAME and tfrecord:PATTERN"):
        open_source(name)


def test_the_version_of_digits_is_the_library_that_ships_them():
    assert source_version("digits").startswith("scikit-learn-1.")
