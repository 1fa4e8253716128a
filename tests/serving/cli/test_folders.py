import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving.cli import files, folders
from serving.wire.errors import RefusedError
from tests.serving.cli.test_commands import run, where  # noqa: F401 - a fixture


def picture(level, size=(8, 8)):
    return files.png(np.full((*size, 3), level, np.uint8))


@pytest.fixture
def folder(tmp_path):
    """150 pictures in two folders, three broken files, and one that is no image by its name."""
    root = tmp_path / "photos"
    (root / "deep").mkdir(parents=True)
    for index in range(150):
        (root / ("deep" if index % 2 else "") / f"{index:03d}.png").write_bytes(picture(17 * (index % 16)))
    for name, content in (("001 broken.jpg", b"\xff\xd8\xff"), ("empty.PNG", b""), ("zz.gif", b"GIF89a")):
        (root / name).write_bytes(content)
    (root / "notes.txt").write_text("no image")
    return root


class Asked:
    """Answers the number of bytes of each file, and counts; kills the process that is not to finish."""

    def __init__(self, fails_at=None, answer=len):
        self.count, self.fails_at, self.answer = 0, fails_at, answer

    def __call__(self, contents):
        self.count += len(contents)
        if self.fails_at is not None and self.count > self.fails_at:
            raise KeyboardInterrupt
        return {"rows": np.array([self.answer(one) for one in contents])}


def answer(sources, output, ask):
    with folders.answered(sources, output, ask) as chunks:
        return [chunk for chunk in chunks for _ in (0,)]


def test_images_of_folders_are_found_by_suffix_in_order(folder):
    found = folders.find([folder, folder / "notes.txt"])
    assert [one.name for one in found[:3]] == ["000.png", "001 broken.jpg", "002.png"]
    assert found[-2].name == "zz.gif"
    assert len(found) == 150 + 3 + 1
    assert [one.named for one in found[-2:]] == [False, True]
    assert "deep/001.png" in {one.name for one in found}
    (folder.parent / "none").mkdir()
    with pytest.raises(files.FileError, match="none must hold images, got no file named like one"):
        folders.find([folder, folder.parent / "none"])


def test_broken_files_of_a_folder_are_skipped_and_named_ones_are_not(folder, tmp_path):
    chunks = answer(folders.find([folder]), tmp_path / "out", Asked())
    assert sum(len(chunk.names) for chunk in chunks) == 150
    skipped = [line for chunk in chunks for line in chunk.skipped]
    assert [Path(line.partition(" must")[0]).name for line in skipped] == [
        "001 broken.jpg",
        "empty.PNG",
        "zz.gif",
    ]
    for chunk in chunks:
        expected = [len((folder / name).read_bytes()) for name in chunk.names]
        assert chunk.arrays["rows"].tolist() == expected
    with pytest.raises(files.FileError, match=r"empty\.PNG must be "):
        answer(folders.find([folder / "empty.PNG"]), tmp_path / "out", Asked())
    assert not (tmp_path / "out.part").exists()


@pytest.mark.parametrize("count", [3, 70])
def test_a_folder_without_a_readable_image_is_an_error(tmp_path, count):
    for index in range(count):
        (tmp_path / f"{index}.png").write_bytes(b"x")
    with pytest.raises(
        files.FileError, match=f"one of the {count} images must be readable, got: .*0.png must"
    ):
        answer(folders.find([tmp_path]), tmp_path.parent / f"{tmp_path.name}-out", Asked())


def test_a_killed_command_goes_on_where_it_stopped(folder, tmp_path):
    sources, output = folders.find([folder]), tmp_path / "out"
    whole = Asked()
    expected = [chunk.names for chunk in answer(sources, output, whole)]
    assert whole.count == 150
    with pytest.raises(KeyboardInterrupt):
        answer(sources, output, Asked(fails_at=100))
    again = Asked()
    assert [chunk.names for chunk in answer(sources, output, again)] == expected
    # One chunk was whole; of each that is, the first image is asked again until one agrees.
    assert again.count == 150 - len(expected[0]) + 1
    assert not (tmp_path / "out.part").exists()


def test_last_bits_of_floats_do_not_make_what_was_stored_anothers(folder, tmp_path):
    sources, output = folders.find([folder]), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        answer(sources, output, Asked(fails_at=100, answer=lambda content: np.float32(len(content))))
    again = Asked(answer=lambda content: np.float32(len(content)) * np.float32(1 + 1e-6))
    answer(sources, output, again)
    assert again.count < 150
    with pytest.raises(KeyboardInterrupt):
        answer(sources, output, Asked(fails_at=100, answer=lambda content: np.float32(len(content))))
    other = Asked(answer=lambda content: np.float32(len(content)) * np.float32(1.01))
    answer(sources, output, other)
    assert other.count > 150


@pytest.mark.parametrize("change", ["model", "file", "damage"])
def test_what_was_stored_is_not_used_for_another_model_or_changed_files(folder, tmp_path, change):
    sources, output = folders.find([folder]), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        answer(sources, output, Asked(fails_at=100))
    ask = Asked()
    if change == "model":
        ask.answer = lambda content: -len(content)
    elif change == "file":
        (folder / "000.png").write_bytes(picture(3, (9, 9)))
    else:
        (stored,) = (tmp_path / "out.part").iterdir()
        stored.write_bytes(stored.read_bytes()[:100])
    chunks = answer(sources, output, ask)
    rows = {
        name: row for chunk in chunks for name, row in zip(chunk.names, chunk.arrays["rows"], strict=True)
    }
    assert len(rows) == 150
    assert all(row == ask.answer((folder / name).read_bytes()) for name, row in rows.items())


def test_every_stored_chunk_is_checked_and_others_files_are_left_alone(folder, tmp_path):
    sources, output = folders.find([folder]), tmp_path / "out"
    part = tmp_path / "out.part"
    with pytest.raises(KeyboardInterrupt):
        answer(sources, output, Asked(fails_at=130))
    _, second = sorted(part.glob("*.npz"), key=lambda path: path.stem.rpartition("-")[2])
    second.write_bytes(b"")
    (part / "thesis.txt").write_text("mine")
    ask = Asked()
    assert sum(len(chunk.names) for chunk in answer(sources, output, ask)) == 150
    assert ask.count < 100
    assert [path.name for path in part.iterdir()] == ["thesis.txt"]


def test_answers_of_another_command_are_not_used(folder, tmp_path):
    sources, output = folders.find([folder]), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), folders.answered(sources, output, Asked(fails_at=100), "encode"):
        pass
    ask = Asked()
    with folders.answered(sources, output, ask, "reconstruct") as chunks:
        assert sum(len(chunk.names) for chunk in chunks) == 150
    assert ask.count == 150


def test_what_the_server_refuses_is_skipped_alone(folder, tmp_path):
    refused = (folder / "deep" / "007.png").read_bytes()

    def ask(contents):
        if refused in contents:
            raise RefusedError("image_bytes must have at most 100 pixels")
        return {"rows": np.array([len(one) for one in contents])}

    chunks = answer(folders.find([folder]), tmp_path / "out", ask)
    skipped = [line for chunk in chunks for line in chunk.skipped]
    own = [line for line in skipped if line.endswith("007.png: image_bytes must have at most 100 pixels")]
    assert len(own) == 1
    # Other files have the same bytes.
    assert sum(len(chunk.names) for chunk in chunks) == 150 - len(skipped) + 3
    assert all(len(chunk.names) == len(chunk.arrays["rows"]) for chunk in chunks)
    with pytest.raises(files.FileError, match=r"007\.png: image_bytes must have"):
        answer(folders.find([folder / "deep" / "007.png"]), tmp_path / "out", ask)


def test_files_of_any_name_and_links_to_nothing_are_taken_as_they_come(folder, tmp_path):
    (folder / "gone.png").symlink_to(folder / "nothing")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(picture(17))
    output = tmp_path / "tokens.tfrecord"

    def ask(contents):
        return {"tokens": np.zeros([len(contents), 2], np.int32)}

    with folders.answered(folders.find([folder]), output, ask) as chunks:
        files.write_tokens(output, [(chunk.arrays["tokens"], chunk.names) for chunk in chunks])
        assert sum("gone.png" in line for chunk in chunks for line in chunk.skipped) == 1
    _, names = files.read_tokens(output)
    assert len(names) == 151
    assert os.fsdecode(b"caf\xe9.png") in names


def test_images_of_several_folders_are_named_with_them(folder):
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "000.png").write_bytes(picture(0))
    names = [one.name for one in folders.find([folder, folder.parent / "other"])]
    assert names[0] == "photos/000.png"
    assert names[-1] == "other/000.png"
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_a_folder_is_encoded_and_decoded_again(where, folder, tmp_path):  # noqa: F811
    out = tmp_path / "tokens.tfrecord"
    result = run("encode", *where, folder, "--output", out)
    assert result.exit_code == 0, result.output
    *skipped, last = result.output.splitlines()
    assert last == f"{out}: 150 rows"
    assert len([line for line in skipped if line.startswith("skipped: ")]) == 3
    tokens, names = files.read_tokens(out)
    assert tokens.tolist() == [[int(Path(name).stem) % 16] * 4 for name in names]
    record = next(tf.data.TFRecordDataset(str(out)).as_numpy_iterator())
    example = tf.train.Example.FromString(record)
    assert example.features.feature["image/key"].bytes_list.value[0] == b"000.png"
    result = run("decode", *where, out, "--output", tmp_path / "decoded")
    assert (result.exit_code, result.output) == (0, f"{tmp_path / 'decoded'}: 150 images\n")
    result = run("reconstruct", *where, folder, "--output", tmp_path / "same")
    assert result.exit_code == 0, result.output
    made = sorted((tmp_path / "same").iterdir())
    assert len(made) == 150
    assert made[1].name == "0001_002_png.png"
    assert (np.asarray(Image.open(made[1])) == 34).all()


@pytest.mark.slow
def test_a_command_that_is_killed_leaves_no_output_and_goes_on(base, folder, tmp_path):
    for index in range(3000):
        (folder / f"more {index}.png").write_bytes(picture(17 * (index % 16)))
    (tmp_path / "serving").symlink_to(base)
    out = tmp_path / "tokens.npz"
    command = [sys.executable, "-m", "tfx_pipeline.cli", "encode", "--run", tmp_path, folder, "--output", out]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 60
        part = tmp_path / "tokens.npz.part"
        while not (part.exists() and len(os.listdir(part)) >= 3) and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    done = {path: path.stat().st_mtime_ns for path in part.glob("[!.]*.npz")}
    assert 2 <= len(done) < 48
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stdout == f"{out}: 3150 rows\n"
    assert not part.exists()
    tokens, names = files.read_tokens(out)
    level = {name: int("".join(filter(str.isdigit, Path(name).stem))) % 16 for name in names}
    assert tokens.tolist() == [[level[name]] * 4 for name in names]
