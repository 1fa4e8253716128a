import shutil

import pytest
import tensorflow as tf

from serving.fingerprint import fingerprint


def write(folder, weights, power: int = 1) -> str:
    model = tf.Module()
    model.weights = tf.Variable(weights)
    model.answer = tf.function(lambda x: model.weights * x**power, input_signature=[tf.TensorSpec([])])
    tf.saved_model.save(model, str(folder))
    return str(folder)


def test_a_copy_has_the_fingerprint_of_its_original(tmp_path):
    shutil.copytree(write(tmp_path / "one", [1.0, 2.0]), tmp_path / "deeper" / "copy")
    assert fingerprint(str(tmp_path / "deeper" / "copy")) == fingerprint(str(tmp_path / "one"))


@pytest.mark.parametrize(("weights", "power"), [([1.0, 2.5], 1), ([1.0, 2.0], 2)])
def test_another_weight_or_another_graph_has_another(tmp_path, weights, power):
    one, other = write(tmp_path / "one", [1.0, 2.0]), write(tmp_path / "other", weights, power)
    # TensorFlow's own fingerprint would tell; older models have none.
    for folder in (one, other):
        tf.io.gfile.remove(f"{folder}/fingerprint.pb")
    assert fingerprint(one) != fingerprint(other)
