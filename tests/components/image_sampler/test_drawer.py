import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from components.image_sampler.drawer import Drawer
from components.sampled_set import SamplingPlan
from serving.export import compiled
from serving.export.sampling_params import SamplingParams
from tests import stand_ins

PLAN = SamplingPlan(10, 3, 1.0, SamplingParams(seed=3, guidance_scale=2.0))


def sample(request):
    """The stand-in's tokens with noise that XLA makes in the same way."""
    noise = (request.seed[:, tf.newaxis] * 5 + 3 * tf.range(stand_ins.TOKENS, dtype=tf.int64)) // 4 % 2
    return 7 * request.class_id[:, tf.newaxis] + tf.cast(noise, tf.int32)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A generator, and its compiled program beside it."""
    folder = str(tmp_path_factory.mktemp("model") / "Format-Serving")
    stand_ins.write_generator(folder, sample=sample)
    compiled.export_compiled(
        compiled.beside(folder),
        tf.Module(),
        stand_ins.metadata("generator"),
        # Which of the two was called shows in the tokens.
        sample=lambda request, guided: sample(request) + int(guided),
        decode=stand_ins.paint,
    )
    return folder


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_compiled_program_draws_the_same_images(model, scale):
    plan = PLAN._replace(params=SamplingParams(seed=3, guidance_scale=scale))
    numbers = np.arange(7)
    tokens, _ = Drawer(model, "", plan, 8)(numbers)
    drawn, pngs = Drawer(model, compiled.beside(model), plan, 8)(numbers)
    np.testing.assert_array_equal(drawn, tokens + (scale != 1.0))
    levels = tf.stack([tf.io.decode_png(png) for png in pngs])
    expected = tf.image.convert_image_dtype(stand_ins.paint(tf.constant(drawn)), tf.uint8, saturate=True)
    np.testing.assert_array_equal(levels, expected)


def test_the_compiled_program_gets_the_scales_of_a_linear_schedule():
    params = SamplingParams(guidance_scale=3.0, guidance_schedule="linear", top_k=4)
    given = compiled.inputs(params, np.array([1, 2]), np.array([3, 4]))
    assert given["first_guidance_scale"].tolist() == [1.0, 1.0]
    assert given["last_guidance_scale"].tolist() == [3.0, 3.0]
    assert given["top_k"].tolist() == [4, 4]
    constant = compiled.inputs(SamplingParams(guidance_scale=3.0), np.array([1]), np.array([3]))
    assert constant["first_guidance_scale"] == constant["last_guidance_scale"] == 3.0


@pytest.mark.slow
def test_four_devices_draw_what_one_draws(model):
    done = subprocess.run(
        [sys.executable, "-m", "tests.components.image_sampler.on_devices", model, compiled.beside(model)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["10", "10"]


def test_a_batch_that_devices_cannot_share_is_refused(model):
    class Three:
        num_replicas_in_sync = 3

    with pytest.raises(ValueError, match=r"batch_size must be a multiple of the 3 devices that draw, got 8"):
        Drawer(model, "", PLAN, 8, Three())
