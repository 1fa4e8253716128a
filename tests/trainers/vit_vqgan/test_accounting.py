from typing import get_args

import keras
import pytest
import tensorflow as tf

from tests.trainers.products import flops
from tests.trainers.slots import adafactor_bytes
from trainers.accounting import total
from trainers.vit_vqgan import accounting, discriminators, losses, quantizer
from trainers.vit_vqgan.accounting import vgg16
from trainers.vit_vqgan.config import AnyDiscriminator, Codebook, Model, PatchGAN, Stage1, StyleGAN2
from trainers.vit_vqgan.discriminators import build_discriminator
from trainers.vit_vqgan.model import ViTVQGAN

pytestmark = pytest.mark.slow

TRANSFORMERS = {
    "encoder": {"blocks": 2, "heads": 2, "width": 8, "hidden": 12},
    "decoder": {"blocks": 1, "heads": 3, "width": 6, "hidden": 20},
}
CONVOLUTIONS = {
    "encoder": {"channels": 4, "multipliers": [1, 2, 2], "residual_blocks": 1},
    "decoder": {"channels": 3, "multipliers": [1, 1, 3], "residual_blocks": 1},
}
PIXELS = tf.zeros([1, 16, 16, 3])


def options(towers, **codebook):
    return {"patch_size": 4, **towers, "codebook": {"size": 10, "dim": 5, **codebook}}


def learned(layer):
    return sum(int(tf.size(variable)) for variable in layer.trainable_variables)


@pytest.mark.parametrize("codebook", [{}, {"kind": "fsq", "levels": [5, 4, 3]}], ids=["vq", "fsq"])
@pytest.mark.parametrize("towers", [TRANSFORMERS, CONVOLUTIONS], ids=["transformers", "convolutions"])
def test_cost_of_every_part_matches_the_built_model(towers, codebook):
    size = Model.model_validate({**options(towers), **({"codebook": codebook} if codebook else {})})
    model = ViTVQGAN(size, image_size=16, seed=0)
    parts = accounting.parts(size, image_size=16)
    for name, cost in parts.items():
        assert cost.parameters == learned(getattr(model, name)), name
        assert cost.adafactor == adafactor_bytes(getattr(model, name)), name
    assert sum(cost.parameters for cost in parts.values()) == learned(model)
    assert accounting.encode(size, image_size=16).flops == flops(model.encode, PIXELS)
    assert accounting.reconstruct(size, image_size=16).flops == flops(model.call, PIXELS)
    assert parts["decoder"].flops == flops(model.decode, tf.zeros([1, 16], tf.int32))


def test_small_small_encodes_256_pixels_with_74_gflops():
    small = {"blocks": 8, "heads": 8, "width": 512, "hidden": 2048}
    model = Model.model_validate({"encoder": small, "decoder": small})
    # 1024 tokens; 8 blocks of 4 d^2 + 2 d h weights and 1024 x 1024 attention pairs; input projection, head
    # and factorized projection; the comparison with 8192 codes.
    weights = 8 * (4 * 512**2 + 2 * 512 * 2048) + 192 * 512 + 512 * 2048 + 2048 * 512 + 512 * 32
    expected = 2 * 1024 * (weights + 8 * 2 * 1024 * 512 + 8192 * 32)
    assert accounting.encode(model, image_size=256).flops == expected
    assert expected == pytest.approx(73.9e9, rel=0.01)


@pytest.mark.parametrize(
    "size",
    [
        StyleGAN2(channel_multiplier=0.01, max_channels=9),
        StyleGAN2(channel_multiplier=0.01, minibatch_stddev=2),
        PatchGAN(channels=4, layers=2),
        PatchGAN(channels=2, layers=3),
    ],
    ids=["stylegan2", "stylegan2 with minibatch_stddev", "patchgan", "deeper patchgan"],
)
def test_discriminator_cost_matches_the_built_network(size, monkeypatch):
    # The blur is computed as matrix products but not counted: on other devices it is a few additions.
    monkeypatch.setattr(discriminators, "blur", _thinned)
    network = build_discriminator(size, image_size=32)
    cost = accounting.DISCRIMINATORS[size.network](size, 32)
    assert cost.parameters == learned(network)
    assert cost.adafactor == adafactor_bytes(network)
    assert cost.flops == flops(network.call, tf.zeros([1, 32, 32, 3]))


def _thinned(x: tf.Tensor, *, margin: int, stride: int = 1) -> tf.Tensor:
    """A tensor of the shape that `blur` returns."""
    return x[:, ::2, ::2] if stride == 2 else tf.pad(x, [[0, 0], [1, 0], [1, 0], [0, 0]])


def test_vgg16_cost_matches_keras():
    network = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    assert vgg16(image_size=32).parameters == network.count_params() == 14_714_688
    assert vgg16(image_size=32).flops == flops(network, tf.zeros([1, 32, 32, 3]))


def stage(**changes):
    train = {"steps": 10, "batch_size": 2, "optimizer": {"learning_rate": 1e-3}, **changes.pop("train", {})}
    return Stage1.model_validate({"model": options(TRANSFORMERS), "train": train, **changes})


def test_networks_of_losses_with_weight_0_cost_nothing():
    without = stage(loss={"adversarial": 0.0, "perceptual": 0.0})
    assert accounting.critics(without, image_size=16) == {}
    assert list(accounting.step_flops(without, image_size=16)) == ["tokenizer"]
    assert list(accounting.critics(stage(), image_size=16)) == ["discriminator", "perceptual"]


def test_tokenizer_step_costs_three_forward_passes_and_one_lookup():
    parts = accounting.parts(stage().model, image_size=16)
    look_up = parts.pop("quantizer").flops
    expected = 3 * total(parts.values()).flops + look_up
    assert accounting.step_flops(stage(), image_size=16)["tokenizer"] == expected


def test_adversary_step_costs_7_forward_passes_and_6_more_with_r1():
    forward = accounting.critics(stage(), image_size=16)["discriminator"].flops
    step = accounting.step_flops(stage(), image_size=16)
    assert (step["adversary"], step["r1"]) == (7 * forward, 6 * forward)
    assert "r1" not in accounting.step_flops(stage(adversary={"r1_gamma": 0.0}), image_size=16)


def test_step_flops_match_the_traced_backward_passes(monkeypatch):
    monkeypatch.setattr(discriminators, "blur", _thinned)
    options = stage(adversary={"discriminator": {"network": "stylegan2", "channel_multiplier": 0.02}})
    model = ViTVQGAN(options.model, image_size=16, seed=0)
    network = build_discriminator(options.adversary.discriminator, image_size=16)
    weights = [variable.value for variable in network.trainable_variables]

    def reconstruct(pixels):
        with tf.GradientTape() as tape:
            distribution, quantized = model(pixels, training=True)
            loss = tf.reduce_mean(distribution.pixels()) + quantized.loss
        return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

    def judge(real, fake):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(fake)
            seen, made = network(real), network(fake)
            fooled, told = tf.reduce_mean(made), tf.reduce_mean(tf.square(made) + tf.square(seen))
        return tape.gradient(fooled, fake), tape.gradient(told, weights)

    def penalize(real):
        with tf.GradientTape() as tape:
            penalty = losses.r1_penalty(network, real)
        return tape.gradient(penalty, weights, unconnected_gradients="zero")

    step = accounting.step_flops(options, image_size=16)
    # The small difference is gradients that are not needed: of the pixels and of the inputs of first layers.
    assert flops(reconstruct, PIXELS) == pytest.approx(step["tokenizer"], rel=0.05)
    assert flops(judge, PIXELS, PIXELS) == pytest.approx(step["adversary"], rel=0.01)
    assert flops(penalize, PIXELS) == pytest.approx(step["r1"], rel=0.01)


def test_entropy_loss_keeps_probabilities_and_their_logarithms():
    def kept(**codebook) -> int:
        size = Model.model_validate(options(TRANSFORMERS, **codebook))
        return accounting.parts(size, image_size=16)["quantizer"].activations

    # 16 tokens, 10 codes.
    assert kept(entropy=0.1) == kept() + 2 * 16 * 10


def test_gradient_checkpointing_costs_one_more_forward_pass_of_blocks():
    step = accounting.step_flops(stage(train={"gradient_checkpointing": True}), image_size=16)
    # 16 tokens: two blocks of width 8 and hidden 12, one of width 6 and hidden 20.
    wide = 2 * 16 * (4 * 8**2 + 2 * 8 * 12) + 4 * 16**2 * 8
    narrow = 2 * 16 * (4 * 6**2 + 2 * 6 * 20) + 4 * 16**2 * 6
    assert step["gradient checkpointing"] == 2 * wide + narrow


def kinds(union: object, field: str) -> set[str]:
    """The values of `field` that the sections of a configuration union have."""
    members = get_args(get_args(union)[0])
    sections = [get_args(member)[0] if get_args(member) else member for member in members]
    return {get_args(section.model_fields[field].annotation)[0] for section in sections}


def test_every_configurable_kind_has_a_layer_and_a_cost():
    assert kinds(Codebook, "kind") == quantizer.QUANTIZERS.keys() == accounting.QUANTIZERS.keys()
    networks = kinds(AnyDiscriminator, "network")
    assert networks == discriminators.DISCRIMINATORS.keys() == accounting.DISCRIMINATORS.keys()
