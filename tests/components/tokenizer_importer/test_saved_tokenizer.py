import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from components.model_validator.executor import validate
from components.tokenizer_importer import saved_tokenizer

DATA = Path(__file__).resolve().parents[3] / "docs" / "data.md"


@pytest.mark.slow
def test_recipe_in_the_docs_exports_a_valid_tokenizer(tmp_path, monkeypatch):
    (recipe,) = re.findall(r"```python\n(.*?)```", DATA.read_text(), re.DOTALL)
    # One code a patch: 16 codes are grey levels, and no patch is near any of the others.
    codes = tf.concat([tf.linspace(0.1, 0.9, 16), tf.fill([8192 - 16], 9.0)], axis=0)
    locations = tf.math.log(codes / (1.0 - tf.minimum(codes, 0.95)))

    def encoder(pixels):
        grey = tf.nn.avg_pool2d(tf.reduce_mean(pixels, axis=-1, keepdims=True), 8, 8, "VALID")
        return -tf.abs(grey - codes)

    def decoder(one_hot):
        mu = tf.linalg.matvec(one_hot, locations)[..., tf.newaxis]
        return tf.image.resize(tf.concat([mu, mu, mu, 0 * mu, 0 * mu, 0 * mu], -1), [256, 256], "nearest")

    module = tf.Module()
    module.encoder, module.decoder = encoder, decoder
    monkeypatch.chdir(tmp_path)
    names = SimpleNamespace(theirs=module)
    exec(recipe.replace("dvae = ...", "dvae = names.theirs"), {"names": names})

    metadata = saved_tokenizer.read("models/dvae", image_size=256)
    assert (metadata.tokens, metadata.codebook_size) == (1024, 8192)
    assert not [check for check in validate("models/dvae") if check.reason]
    ask = tf.saved_model.load("models/dvae").signatures
    pixels = tf.fill([1, 256, 256, 3], 1 / 3)  # 0.8 x + 0.1 is the level of code 5
    tokens = ask["encode_pixels"](pixels=pixels)["tokens"]
    assert set(tokens.numpy().ravel()) == {5}
    np.testing.assert_allclose(ask["decode_pixels"](tokens=tokens)["pixels"], pixels, atol=1e-5)


def test_version_of_missing_savedmodel_is_error(tmp_path):
    with pytest.raises(saved_tokenizer.TokenizerError, match="must be the folder of a SavedModel"):
        saved_tokenizer.version(str(tmp_path))
