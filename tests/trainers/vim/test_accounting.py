import pytest
import tensorflow as tf

from tests.trainers.products import flops
from tests.trainers.slots import adafactor_bytes
from trainers.training.config import Transformer
from trainers.vim import accounting
from trainers.vim.config import Model
from trainers.vim.model import VIM

SIZE = Transformer(blocks=2, heads=2, width=8, hidden=12)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize(
    "extras", [{}, {"qk_norm": True, "random_order": {"anneal_from": 0, "anneal_until": 1}}]
)
def test_parameters_and_flops_match_the_built_model(classes, extras):
    options = Model(transformer=SIZE, class_conditional=bool(classes), **extras)
    model = VIM(options, tokens=9, codebook_size=10, classes=classes)
    parts = accounting.parts(options, tokens=9, codebook_size=10, classes=classes)
    built = sum(int(tf.size(variable)) for variable in model.trainable_variables)
    assert sum(cost.parameters for cost in parts.values()) == built
    assert sum(cost.adafactor for cost in parts.values()) == adafactor_bytes(model)
    counted = flops(model.call, tf.zeros([1, 9], tf.int32), tf.zeros([1], tf.int32))
    assert sum(cost.flops for cost in parts.values()) == counted
