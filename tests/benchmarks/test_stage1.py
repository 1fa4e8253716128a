import time

import pytest
from click.testing import CliRunner

from benchmarks.interleaved import MatrixProduct, measure
from benchmarks.stage1 import main

pytestmark = pytest.mark.slow


def test_each_requested_work_has_a_row():
    asked = [
        "--quick",
        "--only",
        "digits",
        "--work",
        "encode",
        "--work",
        "step + adversary + VGG16",
        "--no-jit",
    ]
    result = CliRunner().invoke(main, asked, catch_exceptions=False)
    assert result.exit_code == 0
    rows = [line.split("│") for line in result.output.splitlines() if line.startswith("│ digits")]
    assert [[cell.strip() for cell in row[2:5]] for row in rows] == [
        ["encode", "64", "no"],
        ["step + adversary + VGG16", "64", "no"],
    ]
    assert all("%" in cell for row in rows for cell in row[7:9])


def test_yardstick_measured_against_itself_has_share_one():
    yardstick = MatrixProduct(512)
    measured = measure(yardstick.rates, flops=yardstick.flops, yardstick=yardstick, repetitions=15)
    assert measured.processor_share == pytest.approx(1.0, rel=0.5)


def test_waiting_lowers_the_wall_clock_share_only():
    yardstick = MatrixProduct(512)

    def work():
        time.sleep(0.2)
        yardstick.rates()

    measured = measure(work, flops=yardstick.flops, yardstick=yardstick, repetitions=3)
    assert measured.seconds > 0.2
    assert measured.share < 0.5 * measured.processor_share
