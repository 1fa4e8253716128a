import dataclasses
import json

import numpy as np
import pytest

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
    "report/ranked.npz",
    "report/codes.npz",
    "report/neighbours.npz",
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


def variant(temperature, fid, samples=100):
    return {
        "values": {"temperature": temperature},
        "metrics": {"fid": fid},
        "intervals": {},
        "counts": {"samples": samples},
        "protocol": {"features": "classifier", "weights": "ab"},
    }


def test_variants_of_sampling_are_added_and_stay_while_the_samples_are_scored_alike(tmp_path):
    made, run = str(tmp_path / "artifact"), str(tmp_path / "run")
    folder.write(made, sample.report())
    folder.publish(made, run)
    scored = folder.read(run).metrics["generation"]
    assert folder.add_variants(run, scored, [variant(0.5, 3.0), variant(1.0, 2.0)])
    assert folder.add_variants(run, scored, [variant(0.5, 4.0), variant(0.5, 9.0, samples=7)])
    assert not folder.add_variants(run, {**scored, "fid": 7.0}, [variant(0.25, 1.0)])
    folder.publish(made, run)
    swept = json.loads((tmp_path / "run" / "metrics.json").read_text())["sweep"]
    assert [(one["metrics"]["fid"], one["counts"]["samples"]) for one in swept] == [
        (4.0, 100),
        (2.0, 100),
        (9.0, 7),
    ]
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "FID over temperature" in page
    # Of another model they say nothing.
    folder.write(made, sample.report(generation={"fid": 7.0}))
    folder.publish(made, run)
    assert "sweep" not in json.loads((tmp_path / "run" / "metrics.json").read_text())


def test_reports_of_earlier_versions_are_read_and_drawn(tmp_path):
    old = dataclasses.replace(sample.report(), ranked={}, codes={}, neighbours={})
    old.metrics["generation"].pop("memorization")
    folder.write(str(tmp_path), old)
    assert folder.read(str(tmp_path)).ranked == {}
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Nearest training images" not in page
    assert "decoded" in page


def test_a_report_that_cannot_be_drawn_changes_no_file(tmp_path):
    folder.write(str(tmp_path), sample.report())
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    broken = sample.report()
    broken.metrics["sweep"] = [variant("high", 1.0), {"values": {}}]
    with pytest.raises(ValueError, match="not enough values to unpack"):
        folder.write(str(tmp_path), broken)
    assert before == {name: (tmp_path / name).read_bytes() for name in FILES}
