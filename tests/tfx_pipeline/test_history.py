import json

from tfx_pipeline import history


def finish(home, psnr: float, seconds: float = 1.0) -> list[str]:
    """Write the results of a run, keep them, and return the names of all that are kept."""
    metrics = {"reconstruction": {"psnr": psnr}, "components": [{"seconds": seconds}]}
    (home / "metrics.json").write_text(json.dumps(metrics))
    (home / "report").mkdir(exist_ok=True)
    (home / "report" / "index.html").write_text(f"PSNR {psnr}")
    history.keep(home)
    return sorted(path.name for path in (home / "history").iterdir())


def test_every_result_is_kept_also_within_one_second(tmp_path):
    finish(tmp_path, 20.0)
    first, second = finish(tmp_path, 21.0)
    assert (tmp_path / "history" / first / "report" / "index.html").read_text() == "PSNR 20.0"
    assert (tmp_path / "history" / second / "report" / "index.html").read_text() == "PSNR 21.0"


def test_the_same_result_is_kept_once(tmp_path):
    finish(tmp_path, 20.0)
    assert len(finish(tmp_path, 20.0, seconds=2.0)) == 1
    finish(tmp_path, 21.0)
    assert len(finish(tmp_path, 20.0)) == 3


def test_draft_of_a_killed_run_is_no_result_and_is_removed(tmp_path):
    finish(tmp_path, 20.0)
    (name,) = (tmp_path / "history").iterdir()
    name.rename(tmp_path / "history" / ".draft-1")
    assert [name.startswith("2") for name in finish(tmp_path, 20.0)] == [True]


def test_damaged_result_is_no_obstacle(tmp_path):
    (name,) = finish(tmp_path, 20.0)
    (tmp_path / "history" / name / "metrics.json").write_text("{")
    assert len(finish(tmp_path, 20.0)) == 2
