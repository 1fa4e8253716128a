import subprocess
import sys

import pytest
from click.testing import CliRunner

from tests import stand_ins
from tests.tfx_pipeline.test_cli import call
from tfx_pipeline.cli import cli
from tfx_pipeline.config import ConfigError, load
from tfx_pipeline.plan import CostPlan, Devices, Part, classifier, stage_1, stage_2
from trainers.accounting import Cost

DEVICES = Devices(count=4, tflops=2.0, utilization=0.5)


def planned(*overrides, preset="cifar10", stage=stage_1, devices=DEVICES):
    return stage(load(preset, overrides), devices)


def learned(plan):
    return sum(part.cost.parameters for part in plan.parts.values() if part.optimizer)


def test_plan_reports_the_parameters_of_table_2():
    tokenizer = planned(preset="imagenet256_sl")
    assert round(tokenizer.parts["encoder"].table_2 / 1e6, 2) == 32.03
    assert round(tokenizer.parts["decoder"].table_2 / 1e6, 1) == 599.5
    image_model = planned(preset="imagenet256_ss", stage=stage_2)
    assert round(image_model.parts["blocks"].table_2 / 1e6, 1) == 1697.5
    assert planned(preset="ablations/cnn").parts["encoder"].table_2 is None


def test_frozen_perceptual_network_has_no_gradients_or_optimizer_slots():
    plan = planned(preset="imagenet256_ss")
    frozen = plan.parts["perceptual (frozen)"].cost.parameters
    assert plan.memory["weights"] == 4 * (learned(plan) + frozen)
    assert plan.memory["gradients"] == 4 * learned(plan)
    assert plan.memory["optimizer, adam"] == 8 * learned(plan)
    assert "perceptual (frozen)" not in planned(preset="imagenet256_ss_unsupervised").parts


def test_part_with_loss_weight_0_costs_nothing():
    plan = planned("stage1.loss.adversarial=0")
    assert "discriminator" not in plan.parts
    assert list(plan.flops) == ["tokenizer"]


def test_r1_cost_is_averaged_over_r1_every():
    plan = planned("stage1.adversary.r1_every=8")
    flops = plan.flops
    expected = 64 * (flops["tokenizer"] + flops["adversary"] + flops["r1"] / 8)
    assert plan.step_flops == pytest.approx(expected)


def test_step_time_follows_from_flops_and_utilization():
    plan = planned()
    assert plan.step_seconds == pytest.approx(plan.step_flops / (4 * 2e12 * 0.5))


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_ema_bfloat16_and_gradient_accumulation_change_the_memory(stage):
    build = {"stage1": stage_1, "stage2": stage_2}[stage]
    before = planned(stage=build).memory
    averaged = planned(f"{stage}.train.ema_decay=0.999", stage=build)
    model = sum(cost.cost.parameters for name, cost in averaged.parts.items() if name != "discriminator")
    assert (before["EMA of weights"], averaged.memory["EMA of weights"]) == (0, 4 * model)
    half = planned(f"{stage}.train.precision=bfloat16", stage=build)
    kept = [
        (part.passes * part.cost.activations, part.passes * part.cost.float32) for part in half.parts.values()
    ]
    images = half.train.batch_size // DEVICES.count
    expected = images * sum(2 * (numbers - float32) + 4 * float32 for numbers, float32 in kept)
    assert half.memory == {**before, "activations": expected}
    assert before["activations"] / 2 < expected < 0.9 * before["activations"]
    parts = planned(f"{stage}.train.gradient_accumulation_steps=2", stage=build).memory
    assert parts["activations"] == before["activations"] // 2
    assert parts["gradients"] == 2 * before["gradients"]


def test_each_network_has_the_slots_of_its_own_optimizer():
    adversary = "stage1.adversary.optimizer={name: adafactor, learning_rate: 0.001}"
    before, after = planned(), planned(adversary)
    discriminator = after.parts["discriminator"].cost
    assert after.memory["optimizer, adafactor"] == discriminator.adafactor
    assert after.memory["optimizer, adam"] == 8 * (learned(before) - discriminator.parameters)
    # Without its own optimizer, the discriminator uses the tokenizer's.
    both = planned("stage1.train.optimizer.name=adafactor", "stage1.adversary.optimizer=null")
    assert both.memory["optimizer, adam"] == 0
    assert learned(both) < both.memory["optimizer, adafactor"] < 1.2 * learned(both)


# A TPU v4-128 as 64 chips of 32 GiB, and as their two cores each.
CHIPS = Devices(count=64, tflops=275.0, utilization=0.4, memory=32 * 2**30)
CORES = Devices(count=128, tflops=137.5, utilization=0.4, memory=16 * 2**30)


def test_vim_large_fits_on_tpu_v4_128_chips_with_adafactor_but_not_adam():
    plan = planned(preset="imagenet256_ss", stage=stage_2, devices=CHIPS)
    assert learned(plan) == 1_848_563_712
    assert round(plan.memory["optimizer, adafactor"] / learned(plan), 2) == 1.01
    assert round(sum(plan.memory.values()) / 1e9, 2) == 33.0
    assert plan.verdict == "Fits in 34.36 GB."
    adam = planned("stage2.train.optimizer.name=adam", preset="imagenet256_ss", stage=stage_2, devices=CHIPS)
    assert round(sum(adam.memory.values()) / 1e9, 2) == 45.92
    assert adam.verdict == "Does not fit in 34.36 GB: needs train.zero_stage 1."
    sharded = ("stage2.train.optimizer.name=adam", "stage2.train.zero_stage=1")
    shards = planned(*sharded, preset="imagenet256_ss", stage=stage_2, devices=CHIPS)
    assert round(sum(shards.memory.values()) / 1e9, 2) == 24.2
    assert shards.verdict == "Fits in 34.36 GB."


def test_vim_large_needs_shards_of_gradients_on_tpu_v4_128_cores():
    plan = planned(preset="imagenet256_ss", stage=stage_2, devices=CORES)
    assert plan.verdict == "Does not fit in 17.18 GB: needs stage 2 of ZeRO, which is not offered."
    assert planned(preset="imagenet256_ss", devices=CORES).verdict == "Fits in 17.18 GB."


@pytest.mark.parametrize(
    ("units", "verdict"),
    [
        (22, "Fits in 22 B."),
        (21, "Does not fit in 21 B: needs train.zero_stage 1."),
        (17, "Does not fit in 17 B: needs train.zero_stage 1."),
        (16, "Does not fit in 16 B: needs stage 2 of ZeRO, which is not offered."),
        (14, "Does not fit in 14 B: needs stage 2 of ZeRO, which is not offered."),
        (13, "Does not fit in 13 B: needs stage 3 of ZeRO, which is not offered."),
        (11, "Does not fit in 11 B: needs stage 3 of ZeRO, which is not offered."),
        (10, "Does not fit in 10 B, however sharded: activations take 6 B."),
    ],
)
def test_verdict_names_what_must_be_sharded_on_small_devices(units, verdict):
    # One parameter: 4 bytes of weight, 4 of gradient, 8 of optimizer slots, and 6 of activations; sharded, 3
    # of slots and of their copy of the weight.
    part = Part(Cost(parameters=1, flops=1, activations=3, adafactor=0), "adam")
    train = load("cifar10", ["stage2.train.precision=bfloat16"]).stage2.train
    plan = CostPlan(
        title="",
        train=train.model_copy(update={"batch_size": 4}),
        devices=Devices(4, 1.0, 1.0, memory=units),
        parts={"part": part},
        flops={},
        averaged={},
        example="",
        example_bytes=0,
        ema_parts=frozenset(),
    )
    assert plan.verdict == verdict


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_gradient_checkpointing_trades_memory_for_flops(stage):
    build = {"stage1": stage_1, "stage2": stage_2}[stage]
    before, after = planned(stage=build), planned(f"{stage}.train.gradient_checkpointing=true", stage=build)
    assert after.memory["activations"] < before.memory["activations"]
    assert after.step_flops > before.step_flops
    assert after.memory["weights"] == before.memory["weights"]


def test_example_bytes_are_those_of_an_image_or_its_tokens():
    assert planned().example_bytes == 2 * 32 * 32
    assert stage_1(load("cifar10"), DEVICES, image_bytes=2500).example_bytes == 2500
    # 64 tokens below 1024 in two bytes each, and 100 bytes for the rest of the Example.
    assert planned(stage=stage_2).example_bytes == 64 * 2 + 100


def test_on_the_fly_tokens_add_tokenizer_weights_forward_pass_and_images():
    cached, on_the_fly = planned(stage=stage_2), planned("stage2.tokens=on_the_fly", stage=stage_2)
    assert learned(on_the_fly) == learned(cached)
    tokenizer = sum(part.cost.parameters for name, part in planned().parts.items() if name != "discriminator")
    assert on_the_fly.memory["weights"] - cached.memory["weights"] == 4 * tokenizer
    assert on_the_fly.memory["activations"] == cached.memory["activations"]
    towers = planned().parts
    encode = sum(towers[name].cost.flops for name in ("encoder", "factorize", "quantizer"))
    assert on_the_fly.step_flops - cached.step_flops == 64 * encode
    assert on_the_fly.example_bytes == planned().example_bytes


def test_indivisible_batch_size_is_config_error():
    with pytest.raises(ConfigError, match=r"stage1\.train\.batch_size must be a multiple of 6 \(3 devices"):
        planned("stage1.train.gradient_accumulation_steps=2", devices=Devices(3, 1.0, 1.0))


def test_plan_command_prints_both_stages():
    arguments = ["--preset", "imagenet256_ss", "--devices", "128", "--device-memory", "17.18"]
    result = CliRunner().invoke(cli, ["plan", *arguments])
    assert result.exit_code == 0, result.output
    for expected in (
        "32.03 M",
        "1697.48 M",
        "r1, on one step of 16",
        "128 x 275 TFLOP/s, 40%",
        "2 images at",
        "optimizer, adam ",
        "optimizer, adafactor ",
        "Fits in 17.18 GB.",
        "Does not fit in 17.18 GB: needs stage 2 of ZeRO, which is not offered.",
    ):
        assert expected in result.output
    assert max(map(len, result.output.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--preset", "nope"], "got 'nope'"),
        (["--devices", "7"], "stage1.train.batch_size must be a multiple of 7 (7 devices"),
        (["--utilization", "2"], "Invalid value for '--utilization'"),
        (["--device-memory", "0"], "Invalid value for '--device-memory'"),
    ],
)
def test_usage_error_is_one_line_with_exit_code_2(tmp_path, arguments, line):
    result = call("plan", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert line in result.stderr


def test_imported_perceptual_network_is_excluded_and_reported():
    overrides = ["stage1.loss.perceptual=0.1", "stage1.perceptual.network=savedmodel:lpips"]
    assert planned(*overrides).title == "Stage 1, the tokenizer (without savedmodel:lpips)"
    assert planned(*overrides).flops == planned().flops


def test_planning_does_not_import_tensorflow():
    code = "import sys, tfx_pipeline.plan; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_imported_tokenizer_provides_its_sizes_and_is_not_planned(tmp_path):
    stand_ins.write_tokenizer(str(tmp_path))
    overrides = (f"stage1={{savedmodel: {tmp_path}}}", f"data.image_size={stand_ins.SIZE}")
    image_model = planned(*overrides, stage=stage_2)
    width = load("cifar10").stage2.model.transformer.width
    # Tokens, positions and the start without a class.
    rows = stand_ins.CODES + stand_ins.TOKENS + 1
    assert image_model.parts["embeddings"].cost.parameters == rows * width
    on_the_fly = planned(*overrides, "stage2.tokens=on_the_fly", stage=stage_2)
    assert on_the_fly.title == "Stage 2, the image model (without the imported tokenizer)"
    assert "tokenizer (frozen)" not in on_the_fly.parts
    with pytest.raises(ConfigError, match="stage1 must be trained"):
        planned(*overrides)


def test_missing_imported_tokenizer_is_config_error():
    with pytest.raises(ConfigError, match="must be the folder of a SavedModel"):
        planned("stage1={savedmodel: nowhere}", stage=stage_2)


def test_classifier_is_counted():
    plan = planned(stage=classifier)
    assert list(plan.parts) == ["stem", "blocks"]
    assert plan.step_flops == 3 * sum(part.cost.flops for part in plan.parts.values()) * plan.train.batch_size
    with pytest.raises(ConfigError, match=r"classifier\.train\.batch_size must be a multiple of 7"):
        planned(stage=classifier, devices=Devices(count=7, tflops=1.0, utilization=1.0))


def test_pretrained_classifier_is_not_planned():
    with pytest.raises(ConfigError, match="classifier must be trained, got a pretrained ResNet50"):
        planned("classifier={network: ResNet50}", stage=classifier)
    shown = CliRunner().invoke(cli, ["plan", "--small", "--set", "classifier={network: ResNet50}"])
    assert shown.exit_code == 0, shown.output
    assert "Stage 1" in shown.output
    assert "Stage 2" in shown.output
    assert "classifier" not in shown.output


@pytest.mark.slow
def test_this_machine_is_measured():
    result = CliRunner().invoke(cli, ["plan", "--device", "cpu", "--small"])
    assert result.exit_code == 0, result.output
    machine = Devices.this_cpu()
    assert 0.001 < machine.tflops < 100  # a core of the slowest to the largest server
    assert result.output.count("Fits in") == 3
    assert "The classifier" in result.output


def test_this_machine_or_another_one():
    result = CliRunner().invoke(cli, ["plan", "--device", "cpu", "--devices", "8"])
    assert result.exit_code == 2
    assert "--device or --devices must be given, got both" in result.output
