import re
from collections import defaultdict
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks import images
from tests.components.image_example_gen import pictures


@pytest.fixture
def folder(tmp_path) -> Path:
    for index in range(60):
        name = f"{'ab'[index % 2]}/{index}.jpg"
        pictures.write(tmp_path / "photos" / name, brightness=4 * index, encoding="JPEG")
    return tmp_path


def run(folder: Path, *arguments: str) -> Result:
    fixed = (str(folder / "photos"), "--output", str(folder / "runs"), "--small", "--held-out", "10")
    return CliRunner().invoke(images.main, [*fixed, *arguments], catch_exceptions=False)


def test_more_images_than_there_are_are_refused(folder):
    result = run(folder, "--images", "20", "--images", "51")
    assert result.exit_code == 2
    assert "--images and --held-out must be at most 60 together, got 51 and 10" in result.output


def test_training_images_are_nested_and_never_held_out(folder):
    paths = images.shuffled(folder / "photos")
    assert len(paths) == 60
    images.link(folder / "photos", folder / "linked", paths[:3])
    linked = sorted(path for path in (folder / "linked").rglob("*.jpg"))
    assert linked == sorted(folder / "linked" / path for path in paths[:3])
    assert all(
        path.read_bytes() == (folder / "photos" / path.relative_to(folder / "linked")).read_bytes()
        for path in linked
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--images", "0"], "Invalid value for '--images': 0 is not in the range x>=1."),
        (["--images", "9", "--held-out", "0"], "Invalid value for '--held-out': 0 is not in the range x>=1."),
        (["--images", "9", "--set", "stage1.train.stepz=1"], "stage1.train.stepz"),
    ],
)
def test_wrong_input_is_one_line_before_anything_is_made(folder, arguments, line):
    result = run(folder, *arguments)
    assert result.exit_code == 2
    assert line in result.output.splitlines()[-1]
    assert not (folder / "runs").exists()


def test_images_held_out_now_are_not_among_the_training_images_of_an_earlier_run(folder, monkeypatch):
    monkeypatch.setattr(images, "measure", lambda config, output: defaultdict(float))
    for held_out in ("30", "10"):
        run(folder, "--images", "20", "--held-out", held_out)
        train, val = (
            {path.name for path in (folder / "runs" / "split" / "20" / name).rglob("*.jpg")}
            for name in ("train", "val")
        )
        assert (len(train), len(val), train & val) == (20, int(held_out), set())


@pytest.mark.slow
def test_tokenizer_of_so_many_images_is_trained_and_scored(folder):
    result = run(folder, "--images", "40")
    lines = [line for line in result.output.splitlines() if re.match(r"\| \d", line)]
    # Four steps of 16 images.
    assert [line.split(" | ")[:2] for line in lines] == [["| 40", "1.6"]]
    assert all(re.fullmatch(r"\| \d+( \| [\d.]+){4} \|", line) for line in lines)
    assert len(list((folder / "runs" / "split" / "40" / "val").rglob("*.jpg"))) == 10
