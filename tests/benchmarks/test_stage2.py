import pytest
from click.testing import CliRunner

from benchmarks.stage2 import main

pytestmark = pytest.mark.slow


def test_step_is_timed_with_and_without_dropout():
    result = CliRunner().invoke(main, ["--quick", "--only", "digits", "--no-jit"], catch_exceptions=False)
    assert result.exit_code == 0
    rows = [line.split("│") for line in result.output.splitlines() if line.startswith("│ digits")]
    assert [[cell.strip() for cell in row[2:5]] for row in rows] == [
        ["step", "64", "no"],
        ["step, dropout 0.1", "64", "no"],
    ]
    assert all("%" in cell for row in rows for cell in row[7:9])
