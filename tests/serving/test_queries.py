import numpy as np
import pytest

from serving import files, queries
from serving.client import Client
from serving.connect import open_folder
from serving.errors import ClientError
from serving.metadata import Metadata
from tests import stand_ins


def described(*class_names):
    return Metadata("generator", "p", 8, 4, 16, class_names, {})


@pytest.fixture(scope="module")
def client(base):
    return open_folder(str(base))


@pytest.mark.parametrize(
    ("known", "names", "expected"),
    [
        (("cat", "dog", "eel"), ["dog", "0"], [1, 0]),
        (("cat", "dog", "eel"), ["all", "eel"], [0, 1, 2, 2]),
        (("1", "0"), ["0", "1"], [1, 0]),  # a name comes before a number
        ((), [], []),
    ],
)
def test_classes_by_name_number_and_all(known, names, expected):
    assert queries.class_ids(described(*known), names) == expected


@pytest.mark.parametrize("name", ["cow", "3", "-1", "", "²"])
def test_unknown_classes_are_told_with_the_known_ones(name):
    with pytest.raises(
        ValueError, match=f"class '{name}' is not known, allowed are 0 to 2, cat, dog, eel, all"
    ):
        queries.class_ids(described("cat", "dog", "eel"), [name])


def test_a_class_for_a_model_without_classes_is_refused():
    with pytest.raises(ValueError, match="the model has no classes"):
        queries.class_ids(described(), ["cat"])


def test_pictures_do_not_depend_on_the_batch_size_and_a_row_can_be_drawn_again_alone(client):
    ids = [0, 1, 2, 1, 0]
    pictures, tokens = queries.generate(client, ids, seed=40, batch_size=2)
    assert (pictures.dtype, pictures.shape) == (np.uint8, (5, 8, 8, 3))
    assert (tokens.dtype, tokens.shape) == (np.int32, (5, stand_ins.TOKENS))
    np.testing.assert_array_equal(queries.generate(client, ids, seed=40)[1], tokens)
    again, _ = queries.generate(client, [1], seed=43)
    np.testing.assert_array_equal(again[0], pictures[3])
    greedy, _ = queries.generate(client, [2], temperature=0.0)
    assert np.all(greedy == 238)


def test_tokens_and_pictures_round_trip(client):
    tokens = np.array([[0, 5, 10, 15], [1, 2, 3, 4]], np.int32)
    pictures = queries.decode(client, tokens)
    assert pictures[0, 0, 0].tolist() == [0] * 3
    assert pictures[0, 7, 7].tolist() == [255] * 3
    encoded = [files.png(picture) for picture in pictures]
    np.testing.assert_array_equal(queries.encode(client, encoded, batch_size=1), tokens)
    np.testing.assert_array_equal(queries.reconstruct(client, encoded), pictures)


class Recorder(Client):
    """Answers with one zero a row, and remembers what it was asked."""

    def __init__(self, output):
        self.output = output
        self.sizes = []

    def predict(self, model, signature, inputs):
        (values,) = inputs.values()
        self.sizes.append(len(values))
        return {self.output: np.zeros((len(values), 1), np.int32)}


def test_batches_are_bounded_by_rows_and_by_bytes():
    recorder = Recorder("tokens")
    queries.encode(recorder, [b""] * 150)
    assert recorder.sizes == [64, 64, 22]
    recorder = Recorder("tokens")
    most = queries.BATCH_BYTES
    assert len(queries.encode(recorder, [bytes(most // 2)] * 3 + [bytes(most + 1), b"x"])) == 5
    assert recorder.sizes == [2, 1, 1, 1]


@pytest.mark.parametrize(
    ("output", "said"), [("tokens", "lacks image_bytes"), ("image_bytes", "no pictures")]
)
def test_answers_of_another_kind_of_model_are_told(output, said):
    with pytest.raises(ClientError, match=said):
        queries.decode(Recorder(output), np.zeros((1, 4), np.int32))
