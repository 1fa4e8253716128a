import re

import pytest
from click.testing import CliRunner

from benchmarks import ablations
from tfx_pipeline.config import load


@pytest.mark.parametrize("row", ablations.ROWS, ids=lambda row: row.name)
def test_row_is_a_valid_configuration_that_differs_from_the_baseline(row):
    baseline = "stage1.model.codebook.dim=32"
    changed = load("cifar10", (baseline, *row.changes)).model_dump()
    assert (changed != load("cifar10", (baseline,)).model_dump()) == bool(row.changes)


def test_table_has_the_papers_scores_beside_the_measured():
    metrics = {"l1": 0.05, "l2": 0.004, "logit_laplace": -2.0, "fid": 3.0, "codebook_usage": 0.5}
    rows = [row for row in ablations.ROWS if row.name in ("baseline", "no adversary")]
    *_, baseline, other = ablations.tabulate((row, metrics) for row in rows)
    assert baseline == "| baseline | 5.00 (3.06) | 4.00 (3.09) | -2.00 (-2.54) | 3.00 (1.55) | 50.00 (96) |"
    assert other == "| no adversary | 5.00 | 4.00 | -2.00 | 3.00 | 50.00 |"


@pytest.mark.slow
def test_row_is_trained_once_and_then_read_from_the_cache(tmp_path):
    def lines() -> list[str]:
        result = CliRunner().invoke(
            ablations.main,
            ["--quick", "--row", "PatchGAN", "--output", str(tmp_path)],
            catch_exceptions=False,
        )
        return result.output.splitlines()

    first = [line for line in lines() if line.startswith("| PatchGAN")]
    assert re.fullmatch(r"\| PatchGAN \|( -?[\d.]+ \(-?[\d.]+\) \|){5}", first[0])
    (training,) = (tmp_path / "checkpoints" / "tokenizer").iterdir()
    written = training.stat().st_mtime_ns
    assert [line for line in lines() if line.startswith("| PatchGAN")] == first
    assert training.stat().st_mtime_ns == written
