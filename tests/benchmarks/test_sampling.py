import pytest
from click.testing import CliRunner

from benchmarks.sampling import main

pytestmark = pytest.mark.slow


def test_each_batch_size_has_a_row_with_token_cost_at_both_positions():
    asked = ["--quick", "--whole", "--batch", "1", "--batch", "3"]
    result = CliRunner().invoke(main, asked, catch_exceptions=False)
    assert result.exit_code == 0
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines() if "│" in line
    ]
    assert [row[0] for row in rows] == ["1", "3"]
    assert all(len(row) == 8 for row in rows)
    assert all(row[2].endswith("%") and row[4].endswith("%") for row in rows)
    assert "weights and each row's cache so far" in result.output
