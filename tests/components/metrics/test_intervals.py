import math

import numpy as np
import pytest

from components.metrics import intervals


def test_the_interval_of_a_share_is_wilsons():
    # R's binom.confint(5, 6, methods = "wilson").
    assert intervals.of_share(5 / 6, 6) == pytest.approx((0.4364969, 0.9699466), abs=1e-6)
    low, high = intervals.of_share(0.0, 100)
    assert low == pytest.approx(0.0, abs=1e-12)
    assert 0.03 < high < 0.04
    assert all(map(math.isnan, intervals.of_share(math.nan, 10)))


def test_the_interval_of_a_mean_holds_it_in_95_of_100_draws():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 50))
    held = [
        low <= 3.0 <= high
        for row in draws
        for low, high in [intervals.of_mean(row.mean(), row.var(ddof=1), len(row))]
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)
