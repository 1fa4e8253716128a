import shutil

import tensorflow as tf

from serving.export.fingerprint import fingerprint


def write(folder, weights, power: int = 1) -> str:
    model = tf.Module()
    model.weights = tf.Variable(weights)
    model.answer = tf.function(lambda x: model.weights * x**power, input_signature=[tf.TensorSpec([])])
    tf.saved_model.save(model, str(folder))
    return str(folder)


def test_copy_has_the_same_fingerprint(tmp_path):
    shutil.copytree(write(tmp_path / "one", [1.0, 2.0]), tmp_path / "deeper" / "copy")
    assert fingerprint(str(tmp_path / "deeper" / "copy")) == fingerprint(str(tmp_path / "one"))


def test_changed_weight_changes_the_fingerprint_through_the_index(tmp_path):
    one, other = write(tmp_path / "one", [1.0, 2.0]), write(tmp_path / "other", [1.0, 2.5])
    mixed = shutil.copytree(one, tmp_path / "mixed")
    shutil.rmtree(mixed / "variables")
    shutil.copytree(f"{other}/variables", mixed / "variables")
    assert fingerprint(str(mixed)) != fingerprint(one)
    # The weights themselves, which may be gigabytes, are not read.
    shutil.copy(f"{one}/variables/variables.index", mixed / "variables")
    assert fingerprint(str(mixed)) == fingerprint(one)


def test_changed_graph_changes_the_fingerprint(tmp_path):
    one, other = write(tmp_path / "one", [1.0, 2.0]), write(tmp_path / "other", [1.0, 2.0], power=2)
    assert fingerprint(one) != fingerprint(other)
