import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from components.run_report import curves, page
from tests.components.run_report import sample


class Balance(HTMLParser):
    """Parser that checks that elements are closed in the order they were opened."""

    VOID = ("meta", "img", "br", "line", "polyline", "polygon", "circle")

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def text(html):
    body = html.partition("</style>")[2].partition("<dialog")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_page_is_well_formed_and_self_contained():
    html = page.render(sample.report())
    assert html.startswith("<!doctype html>")
    balance = Balance()
    balance.feed(html)
    assert balance.open == []
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert re.findall(r"https?://[^\"]+", html) == ["http://www.w3.org/2000/svg"]  # a name, not a place
    assert "@import" not in html


def test_blessings_and_headline_metrics_come_first():
    words = text(page.render(sample.report()))
    top = words[: words.index("Sampled from")]
    for expected in ("Tokenizer is blessed", "Image model is blessed", "22.5 dB", "75 %", "87.5 %", "90 %"):
        assert expected in top.replace("\N{NO-BREAK SPACE}", " ")


def test_real_images_are_compared_with_as_many_samples():
    assert "FID of samples 2.5 real images have 0.5" in text(page.render(sample.report()))
    counts = {"samples": 6, "candidates": 6, "matched": 4}
    words = text(page.render(sample.report(generation={"fid_matched": 3.5, "counts": counts})))
    assert "FID of samples 2.5 of 4: 3.5; as many real ones 0.5" in words


def test_warnings_and_intervals_are_shown():
    report = sample.report()
    report.metrics["warnings"] = ["Few <images>."]
    html = page.render(report)
    words = text(html).replace("\N{NO-BREAK SPACE}", " ")
    assert words.index("is blessed") < words.index("Few") < words.index("Codebook in use")
    assert "Few &lt;images&gt;." in html
    assert "PSNR 22.5 dB 21.2 dB to 23.8 dB of 8 bits, higher is better" in words
    assert "recognizer held out accuracy 1 " in words
    assert '<ul class="warnings"' not in page.render(sample.report())


def test_failed_threshold_shows_its_reason_and_is_marked_in_the_table():
    failure = {"metric": "psnr", "value": 18.0, "reason": "psnr 18 is below 21"}
    html = page.render(
        sample.report(
            reconstruction={
                "psnr": 18.0,
                "blessed": False,
                "thresholds": {"psnr": {"min": 21.0, "max": None}},
                "failed_thresholds": [failure],
            }
        )
    )
    assert "Tokenizer is not blessed psnr 18 is below 21" in text(html)
    assert re.search(r'<tr class="failed"><th scope="row">PSNR</th>.*at least 21.0 dB', html)


def test_absent_metrics_are_left_out():
    report = sample.report()
    del report.metrics["generation"]["class_accuracy"]
    report.metrics["generation"]["protocol"]["classes"] = "none"
    report.metrics["linear_probe"].clear()
    report.metrics["linear_probe"].update(skipped="no labels", counts={}, protocol={}, seconds=0.1)
    words = text(page.render(report))
    assert "Recognized" not in words
    assert "Not measured: no labels." in words


def test_the_probe_is_a_curve_over_blocks_with_its_best_block_marked():
    def probe(**changes):
        html = page.render(sample.report(linear_probe=changes))
        section = text(html).partition("Linear probe Accuracy of a linear classifier")[2]
        return html, section.replace("\N{NO-BREAK SPACE}", " ")

    html, words = probe()
    assert "Accuracy Top-1 90 %" in words
    assert html.count("<circle") == 1
    assert (
        'aria-label="Accuracy over blocks: Top-1 from 50\N{NO-BREAK SPACE}% to 90\N{NO-BREAK SPACE}%"' in html
    )
    assert "never" not in words
    rows = [{"block": 1, "top1": 0.5, "top5": 0.75}, {"block": 2, "top1": 0.9, "top5": 1.0}]
    html, words = probe(by_block=rows, warnings=["It never saw this start."])
    assert "Accuracy Top-1 90 % Top-5 100 %" in words
    assert html.count("<circle") == 2
    assert "It never saw this start." in words


def test_selected_samples_are_labelled_as_selected():
    assert "not selected: the first of each class" in text(page.render(sample.report()))
    words = text(
        page.render(
            sample.report(
                generation={
                    "counts": {"samples": 6, "candidates": 24},
                    "protocol": {"classes": "in turn", "acceptance": 0.25, "inception_splits": 1},
                }
            )
        )
    )
    assert "not selected: the first" not in words
    assert "selected by the classifier: of 24 it kept the 6 with the highest probability" in words
    assert "of 6 samples kept of 24" in words


def test_missing_metric_is_shown_as_not_a_number():
    assert "not finite" in text(page.render(sample.report(reconstruction={"psnr": None})))


def test_external_names_are_escaped():
    html = page.render(sample.report())
    assert "<somewhere>" not in html
    assert "grey &amp; bright" in html


def test_every_logged_series_is_drawn_and_missing_values_are_left_out():
    html = page.render(sample.report())
    assert html.count("<polyline") == 8  # two of the codebook; loss, eval loss, usage, l2; loss of vim; probe
    l2 = re.search(r"<b>l2</b> <span class=\"key k0\">train <i>([^<]*)</i>", html)
    assert l2[1] == "0.3"


def test_components_show_their_times_and_states():
    report = sample.report()
    report.metrics["components"] = [
        {"name": "Trainer", "seconds": 245.0, "state": "ran"},
        {"name": "StatisticsGen", "seconds": 30.4, "state": "cached"},
    ]
    words = text(page.render(report))
    assert "4 min 05 s in total" in words  # cached components took no time in this run
    assert "StatisticsGen cached 30 s" in words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.44, "0.4 s"), (35.2, "35 s"), (59.7, "1 min 00 s"), (245, "4 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_are_human_readable(seconds, said):
    assert page.duration(seconds) == said


def test_alarms_of_a_training_are_shown_with_it():
    report = sample.report()
    assert "verdict bad" not in page.render(report)
    warned = dataclasses.replace(report, alarms={"vim": ["3 steps were skipped: <why> is not known."]})
    html = page.render(warned)
    assert html.count("verdict bad") == 1
    assert "3 steps were skipped: &lt;why&gt; is not known." in html


def test_psnr_and_codebook_usage_are_main_charts():
    history = [
        {"step": step, "loss": 1.0 / step, "psnr": 20.0 + step, "codebook_usage": 0.5, "vq": 0.1}
        for step in (1, 2)
    ]
    main, rest = curves.training(history)
    assert [chart.title for chart in main] == ["loss", "psnr", "codebook usage"]
    assert [chart.title for chart in rest] == ["vq"]


def test_imported_tokenizer_has_no_training_section():
    report = sample.report()
    own = {stage: history for stage, history in report.histories.items() if stage != "tokenizer"}
    words = text(page.render(dataclasses.replace(report, histories=own)))
    assert "Tokenizer (ViT-VQGAN)" not in words
    assert "Image model (VIM)" in words


def test_best_median_and_worst_reconstructions_have_their_values():
    words = text(page.render(sample.report())).replace("\N{NO-BREAK SPACE}", " ")
    best, median, worst = (words.index(f"{title} PSNR") for title in ("Best", "Median", "Worst"))
    assert best < words.index("30.0 dB") < median < words.rindex("22.5 dB", 0, worst) < worst
    assert worst < words.index("18.0 dB") < words.index("More held-out images, not selected")


def test_neighbours_stand_beside_their_sample_with_their_distance():
    html = page.render(sample.report())
    words = text(html).replace("\N{NO-BREAK SPACE}", " ")
    assert "In 25 % (12.5 % to 37.5 %) of all pairs" in words
    assert "50 % if samples are as new as these, more if they are copied" in words
    assert "dark sample 0.50 \N{MULTIPLICATION SIGN} 0.12 grey &amp; bright sample 2.00" in words
    assert html.count("training image that is near by features") == 2


def test_codes_are_drawn_by_frequency():
    chart = curves.codes(np.array([5, 0, 40, 1, 0]))
    assert chart.curves[0].values.split() == ["0.87", "0.109", "0.0217"]
    assert chart.curves[1].values.split() == ["0.2", "0.2"]
    assert "3 of 4 codes are used by the held-out images." in text(page.render(sample.report()))
    assert curves.codes(np.zeros(3, np.int64)) is None


def swept(values, fid, interval=None, samples=100, features="classifier", weights="abcdef01"):
    return {
        "values": values,
        "metrics": {"fid": fid, "recall": 0.5},
        "intervals": {"fid": interval} if interval else {},
        "counts": {"samples": samples},
        "protocol": {"features": features, "weights": weights},
    }


def test_a_sweep_over_one_number_is_a_curve_with_a_band():
    variants = [
        swept({"temperature": 1.0}, 3.0, [2.0, 4.0]),
        swept({"temperature": 0.5}, 2.0, [1.0, 3.0]),
        swept({"temperature": 0.7}, None),
        swept({"temperature": 0.7}, 9.0, samples=7),
        swept({"temperature": 0.8}, 9.0, weights="0123456789"),  # another network of this name
        swept({"temperature": 0.5, "top_k": 3}, 8.0),
        swept({"guidance_schedule": "cosine"}, 8.0),
    ]
    fid, recall = curves.sweeps(variants)
    assert (fid.title, fid.curves[0].steps, fid.curves[0].values) == ("FID over temperature", "0.5 1", "2 3")
    assert len(fid.curves[0].band.split()) == 4
    assert recall.curves[0].band == ""
    assert recall.curves[0].steps == "0.5 0.7 1"
    report = sample.report()
    report.metrics["sweep"] = variants
    words = text(page.render(report))
    assert "temperature 0.5, top k 3; 100 samples, classifier abcdef" in words


def test_peak_memory_is_shown_where_it_is_known():
    report = sample.report()
    report.metrics["components"] = [
        {"name": "Trainer", "seconds": 245.0, "state": "ran", "memory": 3 * 2**30},
        {"name": "Pusher", "seconds": 1.0, "state": "cached", "memory": None},
    ]
    words = text(page.render(report))
    assert "Trainer ran 4 min 05 s 3.0 GiB Pusher cached 1.0 s" in words
    assert "without 1 that were answered from the cache" in words


def test_samples_of_an_unconditional_model_have_no_class_on_labelled_data():
    report = sample.report()
    report.metrics["generation"]["protocol"]["classes"] = "none"
    html = page.render(report)
    assert "sample of class" not in html
    assert "the first ones, of no class" in text(html)
