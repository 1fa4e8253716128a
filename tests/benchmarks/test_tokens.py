import pytest
from click.testing import CliRunner

from benchmarks.tokens import main

pytestmark = pytest.mark.slow


def test_each_requested_preset_has_a_row():
    asked = ["--quick", "--only", "digits", "--only", "cifar10"]
    result = CliRunner().invoke(main, asked, catch_exceptions=False)
    assert result.exit_code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines()]
    rows = [row for row in rows if row and row[0] in ("digits", "cifar10")]
    # Two batches of the presets' batch size.
    assert [row[:3] for row in rows] == [["digits", "256", "512"], ["cifar10", "256", "512"]]
    # The rate over two tiny batches, without the start of a run, is noise: check only that it is positive.
    assert all(float(row[3]) > 0 for row in rows)
    assert all(cell.endswith("%") for row in rows for cell in row[5:7])
