import numpy as np
import pytest
import tensorflow as tf

from components.token_transform.tokenizer import Row, Tokenizer, crop_seed, decodable
from serving.export import images
from tests import stand_ins
from tests.components.image_example_gen import pictures


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tokenizer"))
    stand_ins.write_tokenizer(path)
    return path


def tokenizer(model, batch_size=4, min_scale=0.3):
    return Tokenizer(model, batch_size=batch_size, min_scale=min_scale, flip=True, seed=7)


def rows(*variants, key="a"):
    return [Row(key, None, variant, pictures.encoded(60, size=(40, 24))) for variant in variants]


def test_variant_0_is_the_centre_crop_of_the_serving_graph(model):
    pixels = tokenizer(model).crop(rows(0, 0))
    expected = images.decode_batch(tf.constant([rows(0)[0].image_bytes] * 2), stand_ins.SIZE)
    np.testing.assert_allclose(pixels, expected, atol=1e-6)


def test_other_variants_are_random_crops_fixed_by_their_seed(model):
    first, second = tokenizer(model).crop(rows(1, 2, 1)), tokenizer(model).crop(rows(1))
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first[0], second[0])
    assert np.abs(first[0] - first[1]).max() > 0.001


def test_crop_seed_depends_on_seed_key_and_variant():
    seeds = {crop_seed(0, "a", 1), crop_seed(1, "a", 1), crop_seed(0, "b", 1), crop_seed(0, "a", 2)}
    assert len(seeds) == 4
    assert all(-(2**31) <= part < 2**31 for seed in seeds for part in seed)


def test_padding_does_not_change_tokens(model):
    bright = [Row("b", None, 0, pictures.encoded(level)) for level in (10, 120, 240)]
    found = tokenizer(model, batch_size=8)
    tokens = found.encode(found.crop(bright))
    assert tokens.shape == (3, stand_ins.TOKENS)
    # A stand-in token is the brightness in 16 levels.
    np.testing.assert_array_equal(tokens[:, 0], np.round(np.array([10, 120, 240]) / 255 * 15))


def test_partial_batches_are_padded_to_one_shape(model):
    found = tokenizer(model, batch_size=4)
    shapes = []
    encode = found._encode
    found._encode = lambda pixels: shapes.append(tuple(pixels.shape)) or encode(pixels=pixels)
    for count in (4, 1):
        found.encode(found.crop(rows(*range(count))))
    assert shapes == [(4, stand_ins.SIZE, stand_ins.SIZE, 3)] * 2


def test_model_without_encode_pixels_error_lists_its_signatures(tmp_path):
    stand_ins.write_classifier(str(tmp_path))
    with pytest.raises(ValueError, match="must have the signature encode_pixels, got classify"):
        tokenizer(str(tmp_path))


def test_decodable_detects_a_truncated_image():
    assert decodable(pictures.encoded())
    assert not decodable(pictures.encoded()[:-30])
