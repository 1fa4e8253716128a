import pytest
from click.testing import CliRunner

from benchmarks import memory


@pytest.mark.slow
def test_table_has_a_row_for_each_form_of_each_block(monkeypatch):
    forms = {name: memory.FORMS[name] for name in ("plain", "both")}
    monkeypatch.setattr(memory, "FORMS", forms)
    result = CliRunner().invoke(memory.main, ["--quick", "--time", "--images", "2"], catch_exceptions=False)
    lines = [line for line in result.output.splitlines() if "│" in line]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    assert [row[1] for row in rows] == [*forms] * 2
    assert all(float(row[3]) > 0 and row[5].endswith(" x") for row in rows)
