import json

import numpy as np

from components.run_report import folder
from tests.components.run_report import sample

FILES = {
    "metrics.json",
    "samples.png",
    "reconstructions.png",
    "report/index.html",
    "report/report.json",
    "report/samples.npz",
    "report/pairs.npz",
}


def files(path):
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


def test_report_round_trips(tmp_path):
    report = sample.report()
    folder.write(str(tmp_path), report)
    back = folder.read(str(tmp_path))
    assert files(tmp_path) == FILES
    assert (back.config, back.metrics, back.histories) == (report.config, report.metrics, report.histories)
    np.testing.assert_array_equal(back.samples["images"], report.samples["images"])


def test_metrics_are_flat_with_protocol_and_counts(tmp_path):
    folder.write(str(tmp_path), sample.report())
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["reconstruction"]["psnr"] == 22.5
    assert metrics["reconstruction"]["protocol"]["usage_batch"] == 4
    assert metrics["generation"]["counts"]["candidates"] == 6


def test_publish_copies_all_files(tmp_path):
    folder.write(str(tmp_path / "artifact"), sample.report())
    folder.publish(str(tmp_path / "artifact"), str(tmp_path / "run"))
    assert files(tmp_path / "run") == FILES
    page = "report/index.html"
    assert (tmp_path / "run" / page).read_text() == (tmp_path / "artifact" / page).read_text()


def test_add_components_updates_metrics_json_and_the_page(tmp_path):
    folder.write(str(tmp_path), sample.report())
    for seconds in (5.0, 6.0):  # a second run replaces the first
        folder.add_components(str(tmp_path), [{"name": "SchemaGen", "seconds": seconds, "state": "ran"}])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["components"] == [{"name": "SchemaGen", "seconds": 6.0, "state": "ran"}]
    assert "6.0 s in total" in (tmp_path / "report" / "index.html").read_text()
    assert files(tmp_path) == FILES
