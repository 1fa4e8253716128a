"""`tfx-vim evaluate` on two sets."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from components.evaluators.protocols import open_protocol
from components.metrics import frechet_samples
from components.metrics.frechet import frechet_distance
from components.metrics.kernel_distance import clip_mmd, kernel_distance
from components.metrics.manifold import manifold
from components.metrics.moments import moments
from tests.components.evaluators.test_protocols import frozen, normalized, saved_model
from tfx_pipeline.cli import cli

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two sets of noise, one a little brighter, and two networks whose features are mean colours."""
    folder = tmp_path_factory.mktemp("sets")
    generator = np.random.default_rng(1)
    for name, high in (("samples", 256), ("real", 230)):
        np.savez(folder / f"{name}.npz", generator.integers(0, high, (40, 8, 8, 3), np.uint8))
    saved_model(folder / "model")
    frozen(folder / "graph.pb")
    return folder


def evaluate(*arguments):
    return CliRunner().invoke(cli, ["evaluate", *map(str, arguments)])


def means(path):
    return np.load(path)["arr_0"].mean(axis=(1, 2))


def test_every_score_is_that_of_its_formula_and_the_result_says_what_it_depends_on(place, tmp_path):
    sets = place / "samples.npz", place / "real.npz"
    network = f"inception_2015:{place / 'graph.pb'}"
    done = evaluate(
        *sets, "--features", network, "--batch-size", 7, "--seed", 3, "--output", tmp_path / "o.json"
    )
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "o.json").read_text())
    samples, real = map(means, sets)
    assert result["scores"]["fid"] == pytest.approx(
        frechet_distance(moments(samples), moments(real)), rel=1e-4
    )
    assert result["scores"]["kid"] == pytest.approx(kernel_distance(samples, real, seed=3).mean, rel=1e-4)
    assert result["scores"]["kid_std"] is None
    for name, share in manifold(samples, real)._asdict().items():
        assert result["scores"][name] == pytest.approx(share, abs=0.03)
    assert 1.0 < result["scores"]["is"] < 2.0
    line = frechet_samples.extrapolate(samples, moments(real), seed=3)
    assert result["scores"]["fid_infinity"] == pytest.approx(line.limit, rel=1e-3)
    low, high = result["intervals"]["fid"]
    assert low < result["scores"]["fid"] < high
    assert f"{low:.4g} to {high:.4g}" in done.output
    assert result["intervals"].keys() == {"fid", "precision"}
    assert "cmmd" not in result["scores"]
    assert result["protocol"]["features"] == "inception_2015"
    assert result["protocol"]["dimensions"] == 3
    assert len(result["protocol"]["weights"]) == 16
    assert {k: result["samples"][k] for k in ("path", "count")} == {"path": "samples.npz", "count": 40}
    assert result["samples"]["fingerprint"] != result["reference"]["fingerprint"]
    assert result["versions"]["tensorflow"]
    assert "40 images: FID is biased upwards" in result["warnings"][0]
    assert "fid" in done.output


def test_saved_statistics_give_the_same_fid_without_the_images(place, tmp_path):
    network = f"savedmodel:{place / 'model'}#mean"
    sets = place / "samples.npz", place / "real.npz"
    first = evaluate(*sets, "--features", network, "--save-statistics", tmp_path / "real.npz")
    again = evaluate(sets[0], tmp_path / "real.npz", "--features", network)
    assert first.exit_code == again.exit_code == 0, again.output
    assert [line for line in again.output.splitlines() if line.startswith("fid")] == [
        line for line in first.output.splitlines() if line.startswith("fid")
    ]
    assert "kid" not in again.output
    other = evaluate(sets[0], tmp_path / "real.npz", "--features", f"inception_2015:{place / 'graph.pb'}")
    assert other.exit_code == 1
    assert "must have moments in inception_2015" in other.output


def test_a_batch_of_adm_gives_fid_by_its_moments_and_all_else_by_its_images(place, tmp_path):
    network = f"savedmodel:{place / 'model'}#mean"
    images, of_more = np.load(place / "real.npz")["arr_0"], np.random.default_rng(9).normal(100, 20, (500, 3))
    whole = moments(of_more)
    np.savez(tmp_path / "adm.npz", images, mu=whole.mean, sigma=whole.covariance)
    done = evaluate(
        place / "samples.npz", tmp_path / "adm.npz", "--features", network, "--output", tmp_path / "o.json"
    )
    assert done.exit_code == 0, done.output
    scores = json.loads((tmp_path / "o.json").read_text())["scores"]
    samples = means(place / "samples.npz")
    assert scores["fid"] == pytest.approx(frechet_distance(moments(samples), whole), rel=1e-4)
    assert scores["kid"] == pytest.approx(kernel_distance(samples, means(place / "real.npz")).mean, rel=1e-4)


def test_features_of_clip_have_cmmd(place, tmp_path):
    model = normalized(tmp_path / "clip", [None, 8, 8, 3])
    sets = place / "samples.npz", place / "real.npz"
    done = evaluate(*sets, "--features", f"clip:{model}#seen", "--output", tmp_path / "o.json")
    assert done.exit_code == 0, done.output
    network = open_protocol(f"clip:{model}#seen")
    seen = [network.extract(np.load(path)["arr_0"]).features for path in sets]
    scores = json.loads((tmp_path / "o.json").read_text())["scores"]
    assert scores["cmmd"] == pytest.approx(clip_mmd(*seen), rel=1e-5)
    assert "fid_infinity" not in scores


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("{0}/samples.npz", "{0}/nothing", "--features", "savedmodel:{0}/model#mean"),
            1,
            "a set must be a folder",
        ),
        (("{0}/samples.npz", "{0}/real.npz", "--features", "vgg:{0}"), 1, "features must be one of"),
        (("{0}/samples.npz", "{0}/real.npz"), 2, "Missing option '--features'"),
        (
            ("{0}/samples.npz", "{0}/real.npz", "--features", "x", "--save-statistics", "x.json"),
            2,
            "must end in .npz",
        ),
    ],
)
def test_wrong_arguments_are_one_line(place, arguments, code, message):
    done = evaluate(*(argument.format(place) for argument in arguments))
    assert done.exit_code == code
    assert message in done.output
