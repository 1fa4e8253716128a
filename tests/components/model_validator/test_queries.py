"""Check that queries are valid inputs with distinct rows."""

import numpy as np
import pytest
import tensorflow as tf

from components.model_validator import queries
from tests import stand_ins


def _rows(*names, class_names=stand_ins.CLASSES):
    return queries.rows(names, stand_ins.metadata("generator", class_names))


def test_image_bytes_are_pngs_of_three_sizes():
    shapes = [tf.io.decode_png(one).shape for one in _rows("image_bytes")["image_bytes"]]
    assert shapes == [(8, 8, 3), (11, 16, 3), (17, 8, 3)]


def test_pixels_fill_the_range_and_differ_by_row():
    pixels = _rows("pixels")["pixels"].numpy()
    assert pixels.shape == (3, 8, 8, 3)
    assert pixels.min() == 0.0
    assert pixels.max() == 1.0
    assert len(np.unique(pixels.reshape(3, -1), axis=0)) == 3


def test_tokens_include_the_first_and_the_last_code():
    tokens = _rows("tokens")["tokens"].numpy()
    assert tokens.shape == (3, stand_ins.TOKENS)
    assert tokens.min() == 0
    assert tokens.max() == stand_ins.CODES - 1


def test_classes_are_the_first_the_middle_and_the_last():
    assert _rows("class_id")["class_id"].numpy().tolist() == [0, 1, 2]
    assert _rows("class_id", class_names=())["class_id"].numpy().tolist() == [0, 0, 0]


def test_sampling_inputs_have_the_dtypes_of_the_signature():
    rows = _rows("seed", "temperature", "top_k", "top_p", "guidance_scale")
    assert {name: row.dtype for name, row in rows.items()} == {
        "seed": tf.int64,
        "temperature": tf.float32,
        "top_k": tf.int32,
        "top_p": tf.float32,
        "guidance_scale": tf.float32,
    }
    assert len(set(rows["seed"].numpy())) == queries.ROWS


def test_unknown_input_name_is_error():
    with pytest.raises(ValueError, match=r"inputs must be among \['class_id', .* got \['zoom'\]"):
        _rows("tokens", "zoom")


def test_kept_rows_are_none_half_and_all_of_the_grid():
    assert _rows("kept_rows")["kept_rows"].numpy().tolist() == [0, 1, 2]
