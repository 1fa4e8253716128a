import pytest

from components.run_report import charts


def coordinates(curve):
    return [tuple(map(float, point.split(","))) for point in curve.points.split()]


def test_a_curve_spans_the_frame_from_first_to_last_step():
    chart = charts.lines("loss", [charts.Series("train", [0, 50, 100], [3.0, 2.0, 1.0])])
    (x0, y0), (x1, y1), (x2, y2) = coordinates(chart.curves[0])
    assert (x0, x2) == (charts.LEFT, charts.WIDTH - charts.RIGHT)
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y0 < y1 < y2  # y grows downwards, and the loss falls
    assert chart.curves[0].quoted == "1"


def test_shares_have_a_fixed_percent_scale():
    chart = charts.lines("usage", [charts.Series("train", [0, 1], [0.2, 0.5])], percent=True)
    assert [tick.label for tick in chart.y_ticks] == [
        f"{p}\N{NO-BREAK SPACE}%" for p in (0, 20, 40, 60, 80, 100)
    ]


def test_loss_with_a_wide_range_has_a_logarithmic_scale():
    chart = charts.lines("loss", [charts.Series("train", [0, 1, 2], [100.0, 10.0, 1.0])])
    y = [y for _, y in coordinates(chart.curves[0])]
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.1)


def test_a_single_point_and_a_constant_curve_can_be_drawn():
    for values in ([2.0], [2.0, 2.0], [0.0, 0.0]):
        chart = charts.lines("loss", [charts.Series("train", list(range(len(values))), values)])
        assert len(coordinates(chart.curves[0])) == len(values)


def test_marked_step_has_a_dot_and_its_value_is_quoted():
    series = charts.Series("top-1", [1, 2, 3], [0.25, 0.5, 0.375])
    chart = charts.lines("accuracy", [series], percent=True, over="blocks", marked=2)
    (curve,) = chart.curves
    assert curve.quoted == "50\N{NO-BREAK SPACE}%"
    assert curve.mark == pytest.approx(coordinates(curve)[1], abs=0.1)
    assert charts.lines("accuracy", [series]).curves[0].mark is None


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.0123"), (4.5, "4.5"), (1234.5, "1,234"), (1e-6, "1.0e-06"), (0.0, "0")]
)
def test_numbers_are_formatted_to_significant_digits(value, text):
    assert charts.number(value) == text
