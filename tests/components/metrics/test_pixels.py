import numpy as np
import pytest
from scipy import integrate, special

from components.metrics import pixels

BLACK, GREY = np.zeros([1, 2, 2, 3]), np.full([1, 2, 2, 3], 0.5)


def test_l1_and_l2_are_means_over_the_image():
    assert pixels.l1(BLACK, GREY) == pytest.approx(0.5)
    assert pixels.l2(BLACK, GREY) == pytest.approx(0.25)


def test_metrics_are_computed_per_image():
    assert pixels.l1(np.concatenate([BLACK, GREY]), np.concatenate([GREY, GREY])).tolist() == [0.5, 0.0]


def test_psnr_is_of_8_bits_20_db_for_error_0_1_and_100_db_for_no_error():
    assert pixels.psnr(BLACK, BLACK + 51 / 255) == pytest.approx(20 * np.log10(5))
    assert pixels.psnr(BLACK, BLACK + 0.1) == pytest.approx(-20 * np.log10(26 / 255))  # 25.5 is rounded up
    assert pixels.psnr(GREY, GREY) == pytest.approx(100.0)
    assert pixels.psnr(GREY, GREY + 1e-4) == pytest.approx(100.0)


def test_ssim_of_flat_images_compares_their_brightness():
    # Without contrast (2 a b + c) / (a^2 + b^2 + c) with c = 0.01^2 remains.
    a, b = 51 / 255, 102 / 255
    flat = np.ones([1, 16, 16, 3])
    expected = (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4)
    assert pixels.ssim(a * flat, b * flat) == pytest.approx(expected, rel=1e-4)
    noise = np.random.default_rng(0).random((2, 16, 16, 3))
    np.testing.assert_allclose(pixels.ssim(noise, noise), 1.0, rtol=1e-5)
    assert (pixels.ssim(noise, noise[::-1]) < 0.2).all()
    # Images smaller than the window have one of their own size.
    assert pixels.ssim(a * flat[:, :8, :8], b * flat[:, :8, :8]) == pytest.approx(expected, rel=1e-4)


def test_logit_laplace_at_the_mode_is_log_scale_plus_log_jacobian():
    # x = 1/2 has logit 0, so the distance is 0 and ln b + ln(2 * 1/2 * 1/2) remains.
    value = pixels.logit_laplace(GREY, np.zeros_like(GREY), np.full_like(GREY, -1.0))
    assert value == pytest.approx(-1.0 + np.log(0.5))


def test_logit_laplace_divides_logit_distance_by_b():
    value = pixels.logit_laplace(BLACK, np.zeros_like(BLACK), np.full_like(BLACK, np.log(2.0)))
    # x' = 0.1: |logit 0.1| / 2 + ln 2 + ln(2 * 0.1 * 0.9).
    assert value == pytest.approx(np.log(9.0) / 2 + np.log(2.0) + np.log(0.18))


def test_logit_laplace_does_not_clip_locations_beyond_white():
    white = np.ones([1, 2, 2, 3])
    value = pixels.logit_laplace(white, np.full_like(white, np.log(9.0) + 3.0), np.zeros_like(white))
    assert value == pytest.approx(3.0 + np.log(0.18))


def test_logit_laplace_is_a_negative_log_density():
    # exp(-value) integrates to 1 over x' in (0, 1); x in [0, 1] covers only x' in [0.1, 0.9].
    mu = special.logit(0.34)  # logit of x' at x = 0.3

    def density(x):
        image = np.full([1, 1, 1, 1], x)
        # d x' = 0.8 d x
        return 0.8 * np.exp(-pixels.logit_laplace(image, np.full_like(image, mu), np.zeros_like(image)))[0]

    def cumulative(inner):  # of the Laplace distribution with location mu and scale 1, at logit(x')
        step = special.logit(inner) - mu
        return 0.5 * np.exp(step) if step < 0 else 1 - 0.5 * np.exp(-step)

    covered, _ = integrate.quad(density, 0.0, 1.0, points=[0.3])
    assert covered == pytest.approx(cumulative(0.9) - cumulative(0.1), rel=1e-6)
