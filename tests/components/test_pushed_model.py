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
    found = pushed_model.find(str(served), NEW, signatures=("generate",))
    assert (found.version, found.path, found.problem) == ("12", str(served / "12"), "")


@pytest.mark.parametrize("folder", ["", "missing"])
def test_without_a_version_there_is_nothing_to_compare_with(folder, tmp_path):
    found = pushed_model.find(folder and str(tmp_path / folder), NEW, signatures=("generate",))
    assert found == pushed_model.PushedModel()
    assert found.version == ""


@pytest.mark.parametrize(
    ("new", "signature", "problem"),
    [
        ({"image_size": 16}, "generate", "whose images have 8 pixels a side, not 16"),
        ({"class_names": ("a", "b")}, "generate", "whose classes are others"),
        ({}, "generate_cosine", "which has no signature generate_cosine"),
    ],
)
def test_a_model_that_cannot_be_compared_says_why(served, new, signature, problem):
    found = pushed_model.find(str(served), dataclasses.replace(NEW, **new), signatures=(signature,))
    assert (found.version, found.problem) == ("12", problem)


def test_a_damaged_description_is_a_problem(tmp_path):
    folder = tmp_path / "vim"
    stand_ins.write_generator(str(folder / "1"))
    (folder / "1" / "assets.extra" / "tfx_vim.json").write_text("{")
    found = pushed_model.find(str(folder), NEW, signatures=("generate",))
    assert found.problem.startswith("whose assets.extra/tfx_vim.json cannot be read: ")
