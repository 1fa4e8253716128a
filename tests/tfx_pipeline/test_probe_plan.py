from click.testing import CliRunner

from tests.tfx_pipeline.test_plan import cli
from tfx_pipeline import probe_plan
from tfx_pipeline.config import load


def test_cost_follows_from_sizes():
    config = load("ablations/vim_base")
    plan = probe_plan.linear_probe(config, images=1_281_167)
    assert plan.cached == 24 * 1536 * 2
    assert plan.steps == 90 * 313  # 1,281,167 images in steps of 4,096
    # 2 FLOPs for each of VIM-Base's 650 million parameters and 1,024 tokens are most of it.
    assert 1.3e12 < plan.flops < 2e12
    smaller = load("ablations/vim_base", ["evaluation.linear_probe.batch_size=64"])
    assert probe_plan.linear_probe(smaller, images=1_281_167).steps == 90 * 20_019


def test_plan_prints_the_probe_for_a_number_of_images():
    result = CliRunner().invoke(
        cli, ["plan", "--preset", "digits", "--images", "1527"], catch_exceptions=False
    )
    assert "linear probe, if images have labels  1,527 images" in result.output
    assert "cache on disk" in result.output
