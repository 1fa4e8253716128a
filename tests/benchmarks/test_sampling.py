import pytest
from click.testing import CliRunner

from benchmarks.sampling import main

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("engine", ["sequential", "jacobi"])
def test_each_batch_size_has_a_row_with_its_share_of_the_products(engine):
    asked = ["--quick", "--batch", "1", "--batch", "3", "--engine", engine]
    result = CliRunner().invoke(main, asked, catch_exceptions=False)
    assert result.exit_code == 0
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines() if "│" in line
    ]
    assert [row[0] for row in rows] == ["1", "3"]
    assert [row[4] for row in rows] == (["2", "4"] if engine == "sequential" else ["16", "16"])
    assert all(row[5].endswith("%") for row in rows)
    if engine == "sequential":
        assert [row[1] for row in rows] == ["8", "8"]
