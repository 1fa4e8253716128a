"""Read a source as the executor does, through Beam."""

from __future__ import annotations

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that


def assert_images(source, check) -> None:
    """Call `check` with all images of a source, sorted by key; it raises if they are wrong."""

    def check_sorted(images):
        check(sorted(images, key=lambda image: image.key))

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        assert_that(pipeline | source.images(), check_sorted)
