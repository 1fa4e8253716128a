from click.testing import CliRunner

from tests.tfx_pipeline.test_plan import cli
from tfx_pipeline.config import load
from tfx_pipeline.plan import Devices
from tfx_pipeline.sampling_plan import SamplingPlan, drawing

DEVICES = Devices(count=2, tflops=1.0, utilization=0.5, bandwidth=1e9)


def test_cost_follows_from_sizes():
    plan = drawing(load("imagenet256_ss"))
    assert plan.cache == 4 * 2 * 36 * 2048 * 1024
    # All but the embeddings; every place multiplies each weight once.
    assert 1.8e9 < plan.weights / 4 < 1.85e9
    assert plan.flops > 2 * 1024 * plan.weights / 4


def test_guidance_doubles_rows_and_rejection_draws_more_images():
    plain = drawing(load("digits"))
    guided = drawing(load("digits", ["evaluation.generation.sampling.guidance_scale=2"]))
    chosen = drawing(load("digits", ["evaluation.generation.acceptance=0.5"]))
    assert (plain.images, plain.rows) == (1000, 1)
    assert (guided.images, guided.rows) == (1000, 2)
    assert (chosen.images, chosen.rows) == (2000, 1)
    assert guided.passes == chosen.passes == 16 * 32


def test_bfloat16_halves_what_is_read():
    reduced = drawing(load("digits", ["stage2.sampler={weights: bfloat16, cache: bfloat16}"]))
    whole = drawing(load("digits"))
    assert 2 * reduced.cache == whole.cache
    # But for the 192 x 128 numbers of the last product, its bias and norm.
    assert 2 * reduced.weights - whole.weights == 4 * (192 * 128 + 128 + 2 * 192)


def test_time_is_that_of_reading_or_of_products():
    # 4 groups of 10 passes, 2 for each device; a pass reads 1 MB or multiplies for longer.
    reading = SamplingPlan(images=8, rows=1, tokens=10, slots=2, flops=10, weights=800_000, cache=200_000)
    assert reading.seconds(DEVICES) == 20 * 1e-3
    multiplying = SamplingPlan(images=8, rows=1, tokens=10, slots=2, flops=10**11, weights=1, cache=0)
    assert multiplying.seconds(DEVICES) == 20 * 2 * 1e10 / 5e11


def test_plan_prints_the_drawing_of_samples():
    result = CliRunner().invoke(cli, ["plan", "--preset", "digits"], catch_exceptions=False)
    (row,) = [line for line in result.output.splitlines() if line.startswith("drawing samples")]
    assert row.split()[2:] == ["1,000", "images", "per", "image"]
    assert "reading at 1,200 GB/s" in result.output
    assert max(map(len, result.output.splitlines())) <= 80
