import re

import pytest
import tensorflow as tf
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.tokenizer_importer import saved_tokenizer
from components.tokenizer_importer.executor import Executor
from serving.export.signatures import read_metadata
from tests import stand_ins


def imported(folder, savedmodel, image_size: int = stand_ins.SIZE) -> standard_artifacts.Model:
    model = standard_artifacts.Model()
    model.uri = str(folder / "model")
    Executor().Do({}, {"model": [model]}, {"savedmodel": str(savedmodel), "image_size": image_size})
    return model


def test_imported_model_is_at_the_serving_path_and_answers(tmp_path):
    stand_ins.write_tokenizer(str(tmp_path / "theirs"))
    model = tf.saved_model.load(path_utils.serving_model_path(imported(tmp_path, tmp_path / "theirs").uri))
    assert read_metadata(model) == stand_ins.metadata("tokenizer")
    pixels = tf.fill([1, stand_ins.SIZE, stand_ins.SIZE, 3], 0.4)
    tokens = model.signatures["encode_pixels"](pixels=pixels)["tokens"]
    assert tokens.numpy().tolist() == stand_ins.encode(pixels).numpy().tolist()


def without_a_density(folder: str) -> None:
    stand_ins.write_tokenizer(folder)
    whole = tf.saved_model.load(folder)
    signatures = dict(whole.signatures)

    @tf.function(input_signature=[tf.TensorSpec([None, stand_ins.TOKENS], tf.int32, "tokens")])
    def decode_pixels(tokens):
        return {"pixels": stand_ins.paint(tokens)}

    tf.saved_model.save(whole, folder, signatures={**signatures, "decode_pixels": decode_pixels})


@pytest.mark.parametrize(
    ("write", "image_size", "complaint"),
    [
        (lambda folder: None, stand_ins.SIZE, "must be the folder of a SavedModel"),
        (
            lambda folder: tf.saved_model.save(tf.Module(), folder),
            stand_ins.SIZE,
            "without decode, decode_pixels, encode, encode_pixels, metadata, reconstruct",
        ),
        (stand_ins.write_classifier, stand_ins.SIZE, "without decode"),
        (
            without_a_density,
            stand_ins.SIZE,
            "without decode_pixels.log_scale, decode_pixels.mu",
        ),
        (stand_ins.write_tokenizer, 32, "must be for images of 32 pixels (data.image_size)"),
    ],
    ids=["nothing", "no signatures", "classifier", "outputs", "other size"],
)
def test_unsuitable_savedmodel_is_one_line_error_without_output(tmp_path, write, image_size, complaint):
    write(str(tmp_path / "theirs"))
    with pytest.raises(saved_tokenizer.TokenizerError, match=re.escape(complaint)) as raised:
        imported(tmp_path, tmp_path / "theirs", image_size)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "model").exists()
