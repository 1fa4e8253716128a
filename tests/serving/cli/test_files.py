import errno
import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving.cli import files

PIXELS = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


def written(path, **arrays):
    files.write_images(path, PIXELS, ["a b/c", "ü"], grid=lambda: Image.new("RGB", (5, 7)), arrays=arrays)


def test_folder_holds_one_png_per_image_with_safe_names(tmp_path):
    (tmp_path / "out").mkdir()  # an empty folder is accepted
    written(tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["0000_a_b_c.png", "0001_ü.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "0001_ü.png")), PIXELS[1])


def test_npz_holds_images_and_further_arrays(tmp_path):
    written(tmp_path / "new" / "out.npz", classes=np.array([3, 4]))
    with np.load(tmp_path / "new" / "out.npz") as archive:
        np.testing.assert_array_equal(archive["images"], PIXELS)
        assert archive["classes"].tolist() == [3, 4]


def test_png_is_the_grid(tmp_path):
    written(tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").size == (5, 7)


@pytest.mark.parametrize("name", ["out", "out.png", "out.npz"])
def test_failed_write_leaves_no_files(tmp_path, monkeypatch, name):
    full = OSError(errno.ENOSPC, "No space left on device")

    def half(target, **arrays):
        target.write_bytes(b"half of it")
        raise full

    monkeypatch.setattr(np, "savez_compressed", half)
    monkeypatch.setattr(files, "png", Mock(side_effect=[b"the first of two", full]))
    grid = Mock(return_value=Mock(save=half))
    with pytest.raises(files.FileError, match=f"cannot write {tmp_path / name}: no space left"):
        files.write_images(tmp_path / name, PIXELS, ["a", "b"], grid=grid, arrays={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tokens.npz", "tokens.json", "tokens.tfrecord"])
def test_tokens_round_trip(tmp_path, name):
    tokens = np.array([[1, 2, 3], [4, 5, 8191]], np.int32)
    files.write_tokens(tmp_path / name, [(tokens[:1], ["a.png"]), (tokens[1:], ["ü.jpg"])])
    read, names = files.read_tokens(tmp_path / name)
    np.testing.assert_array_equal(read, tokens)
    assert (read.dtype, names) == (np.int32, ["a.png", "ü.jpg"])


def test_examples_that_cannot_be_written_or_read_are_one_line(tmp_path):
    with pytest.raises(files.FileError, match=r"cannot write /proc/x\.tfrecord: "):
        files.write_tokens(Path("/proc/x.tfrecord"), [(np.zeros([1, 2], np.int32), ["a"])])
    (tmp_path / "x.tfrecord").write_bytes(b"no record" * 9)
    with pytest.raises(files.FileError, match=r"x\.tfrecord must be an \.npz, \.json or \.tfrecord file"):
        files.read_tokens(tmp_path / "x.tfrecord")


def test_tokens_without_names_are_numbered(tmp_path):
    example = tf.train.Example()
    example.features.feature["tokens"].int64_list.value.extend([3, 4])
    with tf.io.TFRecordWriter(str(tmp_path / "bare.tfrecord")) as writer:
        writer.write(example.SerializeToString())
    tokens, names = files.read_tokens(tmp_path / "bare.tfrecord")
    assert (tokens.tolist(), names) == ([[3, 4]], ["0"])
    np.savez(tmp_path / "drawn.npz", tokens=np.array([[1], [2]]), images=PIXELS)
    assert files.read_tokens(tmp_path / "drawn.npz")[1] == ["0", "1"]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"tokens": 3}',
        '{"tokens": []}',
        '{"tokens": [[1.5]]}',
        '{"tokens": [[1], [2, 3]]}',
        '{"tokens": [[-1]]}',
        '{"tokens": [[4294967296]]}',
        '{"tokens": [[1]], "names": []}',
    ],
)
def test_file_without_tokens_is_error(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(files.FileError, match=r"x.json must be"):
        files.read_tokens(tmp_path / "x.json")


def test_pickled_tokens_are_rejected(tmp_path):
    np.savez(tmp_path / "x.npz", tokens=np.array([[object()]]))
    with pytest.raises(files.FileError, match=r"must be an .npz, .json or .tfrecord file of tokens"):
        files.read_tokens(tmp_path / "x.npz")


@pytest.mark.parametrize("content", [b"", b"no picture", files.png(np.zeros((64, 64, 3), np.uint8))[:60]])
def test_invalid_image_is_named_in_the_error(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(files.FileError, match=r"x\.png (must be a JPEG|cannot be decoded)"):
        files.read_image(tmp_path / "x.png")


@pytest.mark.parametrize("name", ["out.jpg", "full", "file", "folder.png"])
def test_unwritable_output_is_rejected_by_check_output(tmp_path, name):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(files.FileError, match=f"output must .* got .*{name}"):
        files.check_output(tmp_path / name, (".png", ""))


def test_cropped_returns_the_centre_square():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert np.all(files.cropped(files.png(wide), 5) == 200)


def test_json_tokens_are_plain_lists(tmp_path):
    files.write_tokens(tmp_path / "t.json", [(np.array([[1, 2]], np.int32), ["a"])])
    assert json.loads((tmp_path / "t.json").read_text()) == {"names": ["a"], "tokens": [[1, 2]]}
