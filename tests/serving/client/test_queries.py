from dataclasses import replace

import numpy as np
import pytest

from serving.cli import files
from serving.client import queries, query
from serving.client.client import Client
from serving.client.connect import open_folder
from serving.export.metadata import Metadata
from serving.export.sampling_params import SamplingParams
from serving.wire.errors import ClientError
from tests import stand_ins
from tests.components.image_example_gen import pictures


def described(*class_names):
    return Metadata("generator", "p", 8, 4, 16, class_names, {})


@pytest.fixture(scope="module")
def client(base):
    return open_folder(str(base))


@pytest.mark.parametrize(
    ("known", "names", "expected"),
    [
        (("cat", "dog", "eel"), ["dog", "id:0"], [1, 0]),
        (("cat", "dog", "eel"), ["all", "eel"], [0, 1, 2, 2]),
        (("1", "0"), ["0", "id:0", "1"], [1, 0, 0]),
        ((), [], []),
    ],
)
def test_classes_are_selected_by_name_number_or_all(known, names, expected):
    assert queries.class_ids(described(*known), names) == expected


@pytest.mark.parametrize("name", ["cow", "0", "id:3", "id:-1", "id:", "", "id:²"])
def test_unknown_class_error_lists_known_classes(name):
    with pytest.raises(
        ValueError, match=f"class must be one of id:0 to id:2, cat, dog, eel, all, got '{name}'"
    ):
        queries.class_ids(described("cat", "dog", "eel"), [name])


def test_class_is_rejected_for_a_model_without_classes():
    with pytest.raises(ValueError, match="class must be absent for a model without classes, got 'cat'"):
        queries.class_ids(described(), ["cat"])


def test_one_class_is_a_name_or_a_number_and_absent_without_classes():
    assert queries.one_class(described("cat", "dog", "all"), ["dog"]) == 1
    assert queries.one_class(described("cat", "dog", "all"), ["id:0"]) == 0
    assert queries.one_class(described("cat", "dog", "all"), ["all"]) == 2
    assert queries.one_class(described(), []) == 0
    with pytest.raises(ValueError, match="class must be absent for a model without classes, got 'cat'"):
        queries.one_class(described(), ["cat"])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "class must be exactly one of id:0 to id:1, cat, dog, got none$"),
        (["cat", "id:0"], "class must be exactly one of id:0 to id:1, cat, dog, got 'cat', 'id:0'$"),
        (["all"], "class must be one of id:0 to id:1, cat, dog, got 'all'$"),
        (["id:2"], "class must be one of id:0 to id:1, cat, dog, got 'id:2'$"),
        (["1"], "class must be one of id:0 to id:1, cat, dog, got '1'$"),
    ],
)
def test_invalid_single_class_error_lists_allowed_classes(names, said):
    with pytest.raises(ValueError, match=said):
        queries.one_class(described("cat", "dog"), names)


@pytest.mark.parametrize(
    ("share", "rows"), [(0, 0), (0.09, 0), (0.1, 1), (0.29, 1), (0.3, 2), (0.5, 3), (1, 5)]
)
def test_kept_share_is_rounded_to_the_nearest_row(share, rows):
    assert queries.kept_rows(replace(described(), tokens=25), share) == rows


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_kept_share_outside_0_to_1_is_rejected(share):
    with pytest.raises(ValueError, match=rf"share of rows to keep must be in \[0, 1\], got {share}"):
        queries.kept_rows(described(), share)


def test_unsupported_guidance_schedule_is_rejected(client):
    with pytest.raises(ValueError, match="Input should be 'constant' or 'linear'"):
        SamplingParams(guidance_schedule="cosine")
    with pytest.raises(ValueError, match="guidance_schedule must be constant for completion, got linear"):
        queries.complete(client, [b""], [0], 1, SamplingParams(guidance_schedule="linear"))


def test_generate_does_not_depend_on_batch_size_and_rows_are_reproducible(client):
    ids = [0, 1, 2, 1, 0]
    pictures, tokens = queries.generate(client, ids, SamplingParams(seed=40), batch_size=2)
    assert (pictures.dtype, pictures.shape) == (np.uint8, (5, 8, 8, 3))
    assert (tokens.dtype, tokens.shape) == (np.int32, (5, stand_ins.TOKENS))
    np.testing.assert_array_equal(queries.generate(client, ids, SamplingParams(seed=40))[1], tokens)
    again, _ = queries.generate(client, [1], SamplingParams(seed=43))
    np.testing.assert_array_equal(again[0], pictures[3])
    greedy, _ = queries.generate(client, [2], SamplingParams(temperature=0.0))
    assert np.all(greedy == 238)


def test_complete_does_not_depend_on_batch_size_and_rows_are_reproducible(client):
    grey, white = (files.png(np.full((12, 20, 3), level, np.uint8)) for level in (102, 255))
    given = [grey, white, grey, white, white]
    pictures, tokens = queries.complete(
        client, given, [0, 1, 2, 1, 0], 1, SamplingParams(seed=40), batch_size=2
    )
    assert (pictures.dtype, pictures.shape) == (np.uint8, (5, 8, 8, 3))
    assert (tokens.dtype, tokens.shape) == (np.int32, (5, stand_ins.TOKENS))
    assert tokens[:, :2].tolist() == [[6, 6], [15, 15], [6, 6], [15, 15], [15, 15]]
    drawn = queries.generate(client, [0, 1, 2, 1, 0], SamplingParams(seed=40))[1]
    np.testing.assert_array_equal(tokens[:, 2:], drawn[:, 2:])
    again, _ = queries.complete(client, [white], [1], 1, SamplingParams(seed=43))
    np.testing.assert_array_equal(again[0], pictures[3])
    np.testing.assert_array_equal(queries.decode(client, tokens), pictures)


def test_tokens_and_images_round_trip(client):
    tokens = np.array([[0, 5, 10, 15], [1, 2, 3, 4]], np.int32)
    pictures = queries.decode(client, tokens)
    assert pictures[0, 0, 0].tolist() == [0] * 3
    assert pictures[0, 7, 7].tolist() == [255] * 3
    encoded = [files.png(picture) for picture in pictures]
    np.testing.assert_array_equal(queries.encode(client, encoded, batch_size=1), tokens)
    np.testing.assert_array_equal(queries.reconstruct(client, encoded), pictures)


class Recorder(Client):
    """Client that returns one zero a row and records the sizes of its requests."""

    def __init__(self, output):
        self.output = output
        self.sizes = []

    def predict(self, model, signature, inputs):
        (values,) = inputs.values()
        self.sizes.append(len(values))
        return {self.output: np.zeros((len(values), 1), np.int32)}


def test_batches_are_bounded_by_rows_and_by_bytes(monkeypatch):
    small, large = pictures.encoded(), pictures.encoded(size=(40, 40))
    recorder = Recorder("tokens")
    queries.encode(recorder, [small] * 150)
    assert recorder.sizes == [64, 64, 22]
    recorder = Recorder("tokens")
    monkeypatch.setattr(query, "BATCH_BYTES", 2 * len(small))
    assert len(large) > 2 * len(small)
    assert len(queries.encode(recorder, [small, small, small, large, small])) == 5
    assert recorder.sizes == [2, 1, 1, 1]


@pytest.mark.parametrize("ask", [queries.encode, queries.reconstruct])
def test_file_that_is_no_image_is_refused_with_its_place(ask):
    with pytest.raises(ValueError, match="image 2 of 2 must be a JPEG, "):
        ask(Recorder("tokens"), [pictures.encoded(), b"<html>404</html>"])


@pytest.mark.parametrize(
    ("output", "said"), [("tokens", "must have the outputs image_bytes"), ("image_bytes", "must be PNGs")]
)
def test_unexpected_outputs_are_client_error(output, said):
    with pytest.raises(ClientError, match=said):
        queries.decode(Recorder(output), np.zeros((1, 4), np.int32))
