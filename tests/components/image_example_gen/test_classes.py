import pytest

from components.image_example_gen.classes import CHECKS, problems

NAMES = ("cat", "dog", "2")


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"train": {0: 5, 1: 5, 2: 5}, "eval": {0: 1}}, []),
        (
            {"train": {0: 5, 1: 5}, "eval": {2: 1}},
            ["every class must have an image in the split train, got none of label 2"],
        ),
        (
            {"train": {0: 5, 2: 5}, "eval": {}},
            ["labels must count from 0 without gaps, got no image with dog"],
        ),
    ],
)
def test_classes_without_images_are_named(counts, expected):
    found = problems(counts, NAMES, declared=False)
    assert [line.partition(";")[0] for line in found] == expected
    assert problems(counts, NAMES, declared=False, allow=CHECKS) == []


def test_class_that_the_data_set_declares_may_be_empty():
    assert problems({"train": {0: 1, 1: 1}}, NAMES, declared=True) == []


@pytest.mark.parametrize("name", ["train", "Test", "VALIDATION", "dev", "test_set", "val2017", "trainval"])
def test_classes_named_like_splits_are_refused(name):
    (line,) = problems({"train": {0: 1, 1: 1}}, ("cat", name), declared=True)
    assert line == f"classes must not be named like splits, got {name}; data.allow=[split_names] lets it pass"
    assert problems({"train": {0: 1, 1: 1}}, ("cat", name), declared=True, allow=["split_names"]) == []


def test_many_classes_are_counted_not_listed():
    (line,) = problems(
        {"train": {0: 1}, "eval": dict.fromkeys(range(1, 9), 1)}, [f"c{i}" for i in range(9)], declared=True
    )
    assert "got none of c1, c2, c3, c4, c5 and 3 more" in line
