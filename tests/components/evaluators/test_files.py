import numpy as np
import pytest

from components.evaluators import files
from serving.export.atomic import write_atomic


def test_arrays_and_json_round_trip(tmp_path):
    files.write_arrays(str(tmp_path / "new" / "a.npz"), {"x": np.arange(3)})
    files.write_json(str(tmp_path / "b.json"), {"y": [1, {"z": "w"}]})
    assert files.read_arrays(str(tmp_path / "new" / "a.npz"))["x"].tolist() == [0, 1, 2]
    assert files.read_json(str(tmp_path / "b.json")) == {"y": [1, {"z": "w"}]}


def test_non_finite_numbers_become_null(tmp_path):
    files.write_json(str(tmp_path / "a.json"), {"x": float("nan"), "y": (float("inf"), 1.0)})
    assert files.read_json(str(tmp_path / "a.json")) == {"x": None, "y": [None, 1.0]}


def test_second_write_replaces_the_file_without_leftovers(tmp_path):
    for content in (b"old and long", b"new"):
        write_atomic(str(tmp_path / "a"), content)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"new")]


def test_pickled_arrays_are_rejected(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        files.read_arrays(str(tmp_path / "a.npz"))
