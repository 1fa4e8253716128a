import pytest
import tensorflow as tf

from tests.trainers.products import flops
from tests.trainers.slots import adafactor_bytes
from trainers.classifier import accounting
from trainers.classifier.config import Model
from trainers.classifier.model import ResNet


@pytest.mark.parametrize(("blocks_per_stage", "image_size"), [(1, 8), (2, 12)])
def test_parameters_and_flops_match_the_built_model(blocks_per_stage, image_size):
    options = Model(blocks_per_stage=blocks_per_stage, width=4)
    model = ResNet(options, image_size=image_size, classes=5)
    parts = accounting.parts(options, image_size=image_size, classes=5)
    built = sum(int(tf.size(variable)) for variable in model.trainable_variables)
    assert sum(cost.parameters for cost in parts.values()) == built
    assert sum(cost.adafactor for cost in parts.values()) == adafactor_bytes(model)
    counted = flops(model.call, tf.zeros([1, image_size, image_size, 3]))
    assert sum(cost.flops for cost in parts.values()) == counted


def test_step_is_three_forward_passes():
    options = Model(blocks_per_stage=1, width=4)
    forward = sum(cost.flops for cost in accounting.parts(options, image_size=8, classes=0).values())
    assert accounting.step_flops(options, image_size=8) == {"classifier": 3 * forward}
