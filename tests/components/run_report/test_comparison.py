from dataclasses import replace

from components.run_report import comparison
from components.run_report.comparison import Row
from tests.components.run_report import sample


def run(seed: int = 7, **metrics_changes):
    made = sample.report(**metrics_changes)
    return replace(made, config={**made.config, "seed": seed})


def test_only_settings_that_differ_are_shown():
    one, other = run(7), run(8)
    other = replace(other, config={**other.config, "data": {"source": "elsewhere", "size": 32}})
    assert comparison.settings([one, other]) == [
        Row("seed", ("7", "8")),
        Row("data.source", ("<somewhere>", "elsewhere")),
        Row("data.size", ("-", "32")),
    ]
    assert comparison.settings([one, one]) == []


def test_code_and_versions_are_settings():
    def from_code(code, keras):
        made = run()
        return replace(
            made, metrics={**made.metrics, "run": {"code": code, "versions": {"keras": keras}, "date": code}}
        )

    assert comparison.settings([from_code("a", "3.1"), from_code("b", "3.2")]) == [
        Row("run.code", ("a", "b")),
        Row("run.versions.keras", ("3.1", "3.2")),
    ]


def test_scores_have_their_intervals():
    lines = {line.name: line.values for line in comparison.scores([run(), run(generation={"fid": 3.5})])}
    assert lines["Generation: FID"] == ("2.5", "3.5")
    (accuracy, _) = lines["Generation: Class accuracy"]
    assert accuracy == "87.5\xa0% (50\xa0% to 97\xa0%)"
    assert lines["Reconstruction: PSNR"][0] == "22.5 dB (21.2 dB to 23.8 dB)"


def test_shares_of_a_run_that_stored_no_intervals_have_wilsons():
    before = run(generation={"intervals": {}}, reconstruction={"intervals": {}})
    lines = {line.name: line.values[0] for line in comparison.scores([before])}
    # 5.25 of 6 is rounded to 5: the interval of 5 of 6 by R's binom.confint(5, 6, methods = "wilson").
    assert lines["Generation: Class accuracy"] == "87.5\xa0% (43.6\xa0% to 97\xa0%)"
    assert lines["Reconstruction: PSNR"] == "22.5 dB"


def test_score_that_a_run_lacks_is_a_dash():
    without = run()
    del without.metrics["generation"]["class_accuracy"]
    lines = {line.name: line.values for line in comparison.scores([run(), without])}
    assert lines["Generation: Class accuracy"][1] == "-"


def test_text_has_columns_of_runs():
    text = comparison.text(["runs/a", "runs/b"], [run(7), run(8)])
    assert text.splitlines()[:2] == [
        "settings that differ  runs/a  runs/b",
        "seed                  7       8",
    ]
    assert "settings that differ  a  b\nnone" in comparison.text(["a", "b"], [run(), run()])


def test_page_shows_names_pictures_and_escapes():
    page = comparison.page(["runs/<a>", "runs/b"], [run(7), run(8)])
    assert "runs/&lt;a&gt;" in page
    assert page.count('alt="sample of ') == 12
    assert page.count('alt="held-out image of class dark"') == 12
    assert page.count('alt="reconstruction of a held-out image of class dark"') == 12
    assert page.count('alt="difference of a held-out image') == 12


def test_held_out_losses_of_runs_lie_over_each_other():
    losses = comparison._held_out_losses(["runs/a", "runs/b"], [run(7), run(8)])
    assert [chart.title for chart in losses] == ["Tokenizer (ViT-VQGAN)"]  # the others have none
    assert [curve.name for curve in losses[0].curves] == ["runs/a", "runs/b"]
    assert [curve.values for curve in losses[0].curves] == ["0.5", "0.5"]
