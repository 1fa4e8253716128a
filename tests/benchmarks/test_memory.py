import pytest
from click.testing import CliRunner

from benchmarks import memory


@pytest.mark.slow
def test_blockwise_attention_and_checkpointing_hold_less():
    result = CliRunner().invoke(memory.main, ["--quick", "--time", "--images", "2"], catch_exceptions=False)
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines() if "│" in line
    ]
    forms = [row[1] for row in rows]
    assert forms == [*memory.FORMS] * 2
    for start in (0, 4):
        plain, blockwise, checkpointed, both = (
            [float(cell) for cell in row[2:4]] for row in rows[start : start + 4]
        )
        assert plain[0] <= blockwise[0] <= both[0]
        assert checkpointed[0] <= both[0]
