from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.trainers.vit_vqgan import distances, photographs
from tfx_pipeline import config
from trainers.training.errors import TrainingError
from trainers.training.step import gradients_of, training_step
from trainers.vit_vqgan import losses
from trainers.vit_vqgan import objective as module
from trainers.vit_vqgan.config import Stage1
from trainers.vit_vqgan.objective import Objective

pytestmark = pytest.mark.slow

TOWER = {"blocks": 1, "heads": 2, "width": 16, "hidden": 32}
SIZE = 16


def stage(**changes) -> Stage1:
    given = {
        "model": {
            "patch_size": 4,
            "encoder": TOWER,
            "decoder": TOWER,
            "codebook": {"size": 16, "dim": 4},
        },
        "loss": {"perceptual": 0.0},
        "adversary": {"discriminator": {"network": "stylegan2", "channel_multiplier": 0.01}},
        "train": {"steps": 8, "batch_size": 4, "optimizer": {"learning_rate": 1e-3}},
    }
    for key, value in changes.items():
        given[key] = {**given.get(key, {}), **value}
    return Stage1.model_validate(given)


def objective(**changes) -> Objective:
    return Objective(stage(**changes), image_size=SIZE, seed=0)


def batch(count: int = 4) -> dict[str, tf.Tensor]:
    pixels = tf.random.stateless_uniform([count, SIZE, SIZE, 3], seed=[0, 0])
    return {"pixels": pixels, "label": tf.zeros([count], tf.int32), "row": tf.range(count)}


def test_loss_is_the_weighted_sum_of_its_terms():
    weights = {"vq": 2.0, "l2": 3.0, "logit_laplace": 0.5, "adversarial": 0.25, "perceptual": 0.0}
    game = objective(loss=weights)
    (tokenizer, _), metrics = game.gradients(batch())
    own = {name: weight for name, weight in weights.items() if weight and name != "adversarial"}
    total = sum(weight * float(metrics[name]) for name, weight in own.items())
    # It is reported with its Jacobian, which is not part of the loss.
    total -= weights["logit_laplace"] * float(losses.jacobian(batch()["pixels"]))
    assert float(metrics["loss"]) == pytest.approx(total, rel=1e-5)
    assert float(game.held_out(batch())["loss"]) == pytest.approx(total, rel=1e-5)

    # The adversarial term is minimized but not part of `loss`, as held-out images have none.
    with tf.GradientTape() as tape:
        parts, reconstruction, _ = game._reconstruct(batch()["pixels"], training=True)
        fooled = losses.generator_loss(game._discriminator(reconstruction))
        descended = parts["loss"] + weights["adversarial"] * fooled
    for one, other in zip(
        gradients_of(tape, descended, game.tokenizer.trainable_variables), tokenizer, strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_penalty_of_the_codebook_is_a_part_of_the_loss():
    weights = {"vq": 2.0, "l2": 3.0, "logit_laplace": 0.0}
    codebook = {"size": 16, "dim": 4, "entropy": 0.5}
    game = objective(
        loss=weights, model={"patch_size": 4, "encoder": TOWER, "decoder": TOWER, "codebook": codebook}
    )
    for metrics in (game.gradients(batch())[1], game.held_out(batch())):
        assert metrics["entropy"] != 0
        total = 2.0 * metrics["vq"] + 3.0 * metrics["l2"] + 0.5 * metrics["entropy"]
        assert float(metrics["loss"]) == pytest.approx(float(total), rel=1e-5)


def test_reported_logits_are_means_over_images():
    game = objective()
    pixels, reconstruction = batch()["pixels"], 0.5 * batch()["pixels"]
    metrics, _ = game._adversarial(pixels, reconstruction)
    for name, images in (("real_logits", pixels), ("fake_logits", reconstruction)):
        logits = game._discriminator(images)
        assert float(metrics[name]) == pytest.approx(float(tf.reduce_mean(logits)), rel=1e-5)


@pytest.mark.parametrize("part", ["l2", "logit_laplace", "adversarial"])
def test_term_of_weight_0_is_not_computed(part):
    assert part in objective().gradients(batch())[1]
    assert part not in objective(loss={part: 0.0}).gradients(batch())[1]


def test_no_discriminator_is_built_without_adversarial_loss():
    alone = objective(loss={"adversarial": 0.0})
    assert list(alone.variables) == ["tokenizer"]
    assert len(alone.states) == 1
    assert len(alone.gradients(batch())[0]) == 1


def test_gradient_step_lowers_the_gan_loss_of_each_network():
    parts = {"l2": 1e-6, "logit_laplace": 0.0, "vq": 0.0, "adversarial": 1.0}
    game = objective(loss=parts, adversary={"r1_gamma": 0.0})
    (tokenizer, discriminator), before = game.gradients(batch())
    for state, move, better in (
        (game.tokenizer, tokenizer, "adversarial"),
        (game.adversary, discriminator, "discriminator"),
    ):
        held = [np.array(v) for v in state.trainable_variables]
        for variable, gradient in zip(state.trainable_variables, move, strict=True):
            variable.assign_sub(1e-3 * gradient)
        assert float(game.gradients(batch())[1][better]) < float(before[better])
        for variable, value in zip(state.trainable_variables, held, strict=True):
            variable.assign(value)


def test_adversary_is_inactive_before_start_step(monkeypatch):
    late = objective(adversary={"start_step": 2})
    without = objective(loss={"adversarial": 0.0})
    for variable, value in zip(without.model.variables, late.model.variables, strict=True):
        variable.assign(value)
    (tokenizer, discriminator), _ = late.gradients(batch())
    (alone,), _ = without.gradients(batch())
    for one, other in zip(tokenizer, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)
    assert all(np.all(gradient == 0.0) for gradient in discriminator)
    monkeypatch.setattr(late, "_discriminator", lambda pixels: pytest.fail("the discriminator ran"))
    late.gradients(batch())
    monkeypatch.undo()
    step = training_step(late.states, late.gradients, post_step=late.post_step, summarize=late.summarize)
    given = {name: value for name, value in batch().items() if name != "row"}
    before = [np.array(v) for v in late.adversary.trainable_variables]
    for _ in range(2):
        step(given)
    for variable, value in zip(late.adversary.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert late.adversary.optimizer.iterations == 0
    step(given)
    assert late.adversary.optimizer.iterations == 1
    assert any(
        np.any(np.array(v) != w) for v, w in zip(late.adversary.trainable_variables, before, strict=True)
    )


def test_late_adversary_runs_its_whole_schedule_in_the_remaining_steps():
    rates = {"learning_rate": 1e-3, "final_learning_rate": 1e-4, "warmup_steps": 2}
    late = objective(adversary={"start_step": 4}, train={"optimizer": rates})
    prompt = objective(adversary={"start_step": 0}, train={"optimizer": rates, "steps": 4})
    for moves in (0, 2, 3, 4):
        for game in (late, prompt):
            game.adversary.optimizer.variables[0].assign(moves)
        assert float(late.adversary.optimizer.learning_rate) == pytest.approx(
            float(prompt.adversary.optimizer.learning_rate)
        )
    assert float(late.adversary.optimizer.learning_rate) == pytest.approx(1e-4)


def test_lecam_ignores_logits_before_start_step():
    game = objective(adversary={"start_step": 2, "lecam": 0.1})
    step = training_step(game.states, game.gradients, post_step=game.post_step, summarize=game.summarize)
    given = {name: value for name, value in batch().items() if name != "row"}
    for _ in range(2):
        step(given)
    assert [float(mean) for mean in game._lecam.variables] == [0.0, 0.0]
    metrics = step(given)
    # A running mean with decay 0.99 that starts at 0.
    expected = [0.01 * float(metrics[name]) for name in ("real_logits", "fake_logits")]
    assert [float(mean) for mean in game._lecam.variables] == pytest.approx(expected)
    assert any(expected)


def test_split_groups_of_minibatch_stddev_are_refused(monkeypatch):
    grouped = {"discriminator": {"network": "stylegan2", "minibatch_stddev": 4}}
    with pytest.raises(
        ValueError, match=r"minibatch_stddev must divide the 2 images of a micro-batch .* got 4"
    ):
        stage(adversary=grouped, train={"gradient_accumulation_steps": 2})
    whole = stage(adversary=grouped)
    module._check_minibatch_groups(whole)
    # The configuration does not know the number of replicas.
    two = SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: two)
    with pytest.raises(
        TrainingError, match=r"minibatch_stddev must divide the 2 images that each of 2 replicas .* got 4"
    ):
        module._check_minibatch_groups(whole)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"adversary": {"start_step": 8}}, r"adversary\.start_step must be below train\.steps 8, got 8"),
        (
            {"adversary": {"optimizer": {"learning_rate": 1e-3, "warmup_steps": 8}}},
            r"adversary\.optimizer\.warmup_steps must be below train\.steps 8, got 8",
        ),
        (
            {"adversary": {"optimizer": {"learning_rate": 1e-3, "decay_from": 9}}},
            r"adversary\.optimizer\.decay_from must be below train\.steps 8, got 9",
        ),
        (
            {
                "adversary": {"start_step": 5},
                "train": {"optimizer": {"learning_rate": 1e-3, "warmup_steps": 3}},
            },
            r"train\.optimizer\.warmup_steps must be below train\.steps - adversary\.start_step 3",
        ),
        (
            {"loss": {"l2": 0.0, "logit_laplace": 0.0}},
            "one of l2, logit_laplace and perceptual must be above 0",
        ),
        (
            {"train": {"optimizer": {"learning_rate": 1e-3, "final_learning_rate": 1.0}}},
            r"final_learning_rate must be at most learning_rate 0\.001, got 1\.0",
        ),
        (
            {"adversary": {"discriminator": {"network": "stylegan2", "minibatch_stddev": 1}}},
            "must be 0, or 2 or more",
        ),
    ],
)
def test_invalid_stage_1_configuration_is_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        stage(**changes)


def test_lazy_r1_equals_r1_at_every_step_on_average():
    def of_steps(every: int) -> list[np.ndarray]:
        keras.utils.set_random_seed(1)
        game = objective(adversary={"r1_every": every})
        moves = game.adversary.optimizer.variables[0]
        sums = [np.zeros(v.shape, "float32") for v in game.adversary.trainable_variables]
        penalties = 0.0
        for move in range(4):
            moves.assign(move)
            penalty, gradients = game._lazy_r1(batch()["pixels"])
            penalties += float(penalty)
            sums = [total + gradient.numpy() for total, gradient in zip(sums, gradients, strict=True)]
        return [np.array(penalties), *sums]

    # The weights are the same at all four steps: one penalty scaled by 4 equals the sum of four.
    for lazy, eager in zip(of_steps(4), of_steps(1), strict=True):
        np.testing.assert_allclose(lazy, eager, rtol=1e-4, atol=1e-5)


def test_codebook_usage_and_perplexity_use_the_mean_token_shares():
    one, other = np.eye(16, dtype="float32")[:2]
    scalars = objective().summarize(
        {"token_shares": tf.constant((one + other) / 2), "loss": tf.constant(1.0)}
    )
    assert float(scalars["codebook_usage"]) == pytest.approx(2 / 16)
    assert float(scalars["codebook_perplexity"]) == pytest.approx(2.0)
    assert set(scalars) == {"loss", "codebook_usage", "codebook_perplexity"}


def without_sizes(preset: str) -> Stage1:
    """A preset's small models with its full loss, which `small` changes because weights may be missing."""
    loss = config.load(preset).stage1.loss
    return config.load(preset, small=True).stage1.model_copy(update={"loss": loss})


@pytest.mark.parametrize("preset", ["imagenet256_ss", "ffhq256"])
def test_unsupervised_preset_uses_no_pretrained_weights(preset, monkeypatch):
    asked: list[object] = []
    monkeypatch.setattr(module, "load_distance", lambda options: asked.append(options))
    Objective(without_sizes(preset), image_size=32, seed=0)
    assert len(asked) == 1
    game = Objective(without_sizes(f"{preset}_unsupervised"), image_size=32, seed=0)
    assert len(asked) == 1
    step = tf.function(training_step(game.states, game.gradients), autograph=False)
    graph = step.get_concrete_function({"pixels": tf.TensorSpec([16, 32, 32, 3])}).graph
    own = {id(variable.value.handle) for variables in game.variables.values() for variable in variables}
    assert {id(variable.handle) for variable in graph.variables} <= own
    # No pretrained network is hidden in a constant either.
    constants = [op.outputs[0].shape.num_elements() for op in graph.get_operations() if op.type == "Const"]
    assert max(constants) < 10_000


def seen_by(network: str, **train) -> Objective:
    """A tokenizer of 32 x 32 pixels whose loss is the perceptual term and that of the codebook alone."""
    options = stage(
        loss={"l2": 0.0, "logit_laplace": 0.0, "adversarial": 0.0, "perceptual": 1.0},
        perceptual={"network": network},
        train={"optimizer": {"learning_rate": 3e-3}, **train},
    )
    return Objective(options, image_size=32, seed=0)


@pytest.mark.parametrize(
    "folder",
    [None, *(pytest.param(path, marks=distances.needs_lpips, id=path.name) for path in distances.LPIPS)],
)
def test_perceptual_loss_falls_with_and_without_gradient_accumulation(folder, tmp_path):
    network = f"savedmodel:{folder}" if folder else distances.saved(tmp_path)
    picture = photographs.crop(64)
    given = {"pixels": tf.stack([picture[y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32)])}

    def train(**options) -> list[float]:
        keras.utils.set_random_seed(0)
        game = seen_by(network, **options)
        step = training_step(
            game.states,
            game.gradients,
            gradient_accumulation_steps=options.get("gradient_accumulation_steps", 1),
            post_step=game.post_step,
        )
        compiled = tf.function(step, autograph=False)
        return [float(compiled(given)["perceptual"]) for _ in range(40)]

    whole = train()
    assert whole[-1] < 0.8 * whole[0]
    assert train(gradient_accumulation_steps=2)[:3] == pytest.approx(whole[:3], rel=1e-3)


def test_tokenizer_overfits_one_photograph():
    # The quickest check for a broken tokenizer: reconstructing an image requires every gradient.
    tower = {"blocks": 2, "heads": 4, "width": 64, "hidden": 128}
    codebook = {"size": 256, "dim": 8, "revive_below": 0.2, "continuous_steps": 20}
    model = {"patch_size": 4, "encoder": tower, "decoder": tower, "codebook": codebook}
    train = {
        "steps": 400,
        "batch_size": 1,
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 10, "clip_norm": 1.0},
    }
    game = Objective(stage(model=model, loss={"adversarial": 0.0}, train=train), image_size=32, seed=0)
    step = tf.function(training_step(game.states, game.gradients, post_step=game.post_step))
    picture = {"pixels": photographs.crop(32)[np.newaxis]}
    assert float(game.held_out(picture)["psnr"]) < 15.0
    for _ in range(400):
        step(picture)
    assert float(game.held_out(picture)["psnr"]) > 30.0
    (moves,), _ = game.gradients({**picture, "row": tf.range(1)})
    silent = [
        variable.path
        for variable, gradient in zip(game.tokenizer.trainable_variables, moves, strict=True)
        if not np.any(gradient)
    ]
    assert not silent
