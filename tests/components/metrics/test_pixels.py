import numpy as np
import pytest
from scipy import integrate, special

from components.metrics import pixels

BLACK, GREY = np.zeros([1, 2, 2, 3]), np.full([1, 2, 2, 3], 0.5)


def test_l1_and_l2_are_means_over_the_image():
    assert pixels.l1(BLACK, GREY) == pytest.approx(0.5)
    assert pixels.l2(BLACK, GREY) == pytest.approx(0.25)


def test_each_image_is_measured_alone():
    assert pixels.l1(np.concatenate([BLACK, GREY]), np.concatenate([GREY, GREY])).tolist() == [0.5, 0.0]


def test_psnr_of_a_tenth_is_20_db_and_of_no_difference_100():
    assert pixels.psnr(BLACK, BLACK + 0.1) == pytest.approx(20.0)
    assert pixels.psnr(GREY, GREY) == pytest.approx(100.0)


def test_logit_laplace_at_the_mode_is_the_scale_and_the_jacobian():
    # x = 1/2, whose logit is 0: no distance, so ln b + ln(2 * 1/2 * 1/2).
    value = pixels.logit_laplace(GREY, np.zeros_like(GREY), np.full_like(GREY, -1.0))
    assert value == pytest.approx(-1.0 + np.log(0.5))


def test_logit_laplace_measures_distance_between_logits_in_units_of_b():
    value = pixels.logit_laplace(BLACK, np.zeros_like(BLACK), np.full_like(BLACK, np.log(2.0)))
    # x' = 0.1: |logit 0.1| / 2 + ln 2 + ln(2 * 0.1 * 0.9).
    assert value == pytest.approx(np.log(9.0) / 2 + np.log(2.0) + np.log(0.18))


def test_a_location_beyond_white_counts_in_full_though_its_picture_is_white():
    white = np.ones([1, 2, 2, 3])
    value = pixels.logit_laplace(white, np.full_like(white, np.log(9.0) + 3.0), np.zeros_like(white))
    assert value == pytest.approx(3.0 + np.log(0.18))


def test_logit_laplace_is_the_logarithm_of_a_density():
    # Over all of (0, 1) exp(-value) integrates to 1; x in [0, 1] covers x' in [0.1, 0.9] of it.
    mu = special.logit(0.34)  # where x' of 0.3 lies

    def density(x):
        image = np.full([1, 1, 1, 1], x)
        # d x' = 0.8 d x
        return 0.8 * np.exp(-pixels.logit_laplace(image, np.full_like(image, mu), np.zeros_like(image)))[0]

    def cumulative(inner):  # of the Laplace distribution around mu, at logit(x')
        step = special.logit(inner) - mu
        return 0.5 * np.exp(step) if step < 0 else 1 - 0.5 * np.exp(-step)

    covered, _ = integrate.quad(density, 0.0, 1.0, points=[0.3])
    assert covered == pytest.approx(cumulative(0.9) - cumulative(0.1), rel=1e-6)
