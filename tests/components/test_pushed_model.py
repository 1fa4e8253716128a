import dataclasses

import pytest

from components import pushed_model
from tests import stand_ins

NEW = stand_ins.metadata("generator")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "vim"
    for version in (3, 12):
        stand_ins.write_generator(str(folder / str(version)))
    (folder / "13" / "variables").mkdir(parents=True)  # half of a push
    return folder


def test_the_newest_whole_version_is_found(served):
    found = pushed_model.find(str(served), NEW, {"generate": ("tokens",)})
    assert (found.version, found.path, found.problem) == ("12", str(served / "12"), "")


@pytest.mark.parametrize("folder", ["", "missing"])
def test_without_a_version_there_is_nothing_to_compare_with(folder, tmp_path):
    found = pushed_model.find(folder and str(tmp_path / folder), NEW, {"generate": ("tokens",)})
    assert found == pushed_model.PushedModel()
    assert found.version == ""


@pytest.mark.parametrize(
    ("new", "signature", "output", "problem"),
    [
        ({"image_size": 16}, "generate", "tokens", "whose images have 8 pixels a side, not 16"),
        ({"class_names": ("a", "b")}, "generate", "tokens", "whose classes are others"),
        ({}, "generate_cosine", "tokens", "which has no generate_cosine.tokens"),
        ({}, "generate", "mu", "which has no generate.mu"),
    ],
)
def test_a_model_that_cannot_be_compared_says_why(served, new, signature, output, problem):
    found = pushed_model.find(str(served), dataclasses.replace(NEW, **new), {signature: (output,)})
    assert (found.version, found.problem) == ("12", problem)


def test_a_damaged_description_is_a_problem(tmp_path):
    folder = tmp_path / "vim"
    stand_ins.write_generator(str(folder / "1"))
    (folder / "1" / "assets.extra" / "tfx_vim.json").write_text("{")
    found = pushed_model.find(str(folder), NEW, {"generate": ("tokens",)})
    assert found.problem.startswith("which cannot be read: ")


def test_a_damaged_model_is_a_problem_and_no_error(tmp_path):
    folder = tmp_path / "vim"
    stand_ins.write_generator(str(folder / "1"))
    (folder / "1" / "saved_model.pb").write_bytes(b"no graph")
    found = pushed_model.find(str(folder), NEW, {"generate": ("tokens",)})
    assert found.problem.startswith("which cannot be read: ")
