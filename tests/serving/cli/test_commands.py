import csv
import json

import click
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from serving.cli import commands, files, grid, operate
from serving.client.connect import connect
from serving.export.sampling_params import BatchSamplingParams, SamplingRequest
from serving.server.server import Limits, Options, background_server
from tests import stand_ins

pytestmark = pytest.mark.slow

cli = click.Group(commands={command.name: command for command in (*commands.COMMANDS, *operate.COMMANDS)})

AT_TEMPERATURE_1 = BatchSamplingParams(*[tf.ones(4)] * len(BatchSamplingParams._fields))


@pytest.fixture(params=["folder", "grpc", "http"])
def where(request, base):
    """Options that select the same models in a folder, over gRPC and over HTTP."""
    if request.param == "folder":
        run = base.parent / "run"
        run.mkdir(exist_ok=True)
        if not (run / "serving").exists():
            (run / "serving").symlink_to(base)
        return ["--run", str(run)]
    return ["--endpoint", getattr(request.getfixturevalue("server"), request.param)]


@pytest.fixture
def picture(tmp_path):
    return flat_picture(tmp_path / "grey.png", 102)


def flat_picture(path, level):
    path.write_bytes(files.png(np.full((12, 20, 3), level, np.uint8)))
    return path


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_generate_writes_arrays_in_the_requested_class_order(where, tmp_path):
    out = tmp_path / "out.npz"
    result = run(
        "generate", *where, "--class", "bright", "--class", "id:0", "--count", 2, "--seed", 5, "--output", out
    )
    assert (result.exit_code, result.output) == (0, f"{out}: 4 images\n")
    with np.load(out) as archive:
        assert archive["classes"].tolist() == [2, 2, 0, 0]
        assert archive["images"].shape == (4, stand_ins.SIZE, stand_ins.SIZE, 3)
        ids, seeds = tf.constant([2, 2, 0, 0]), tf.constant([5, 6, 7, 8], tf.int64)
        no_prompt = {
            "prompt": tf.zeros([4, stand_ins.TOKENS], tf.int32),
            "prompt_length": tf.zeros(4, tf.int32),
        }
        expected = stand_ins.sample(SamplingRequest(ids, seeds, AT_TEMPERATURE_1, **no_prompt))
        np.testing.assert_array_equal(archive["tokens"], expected)


def test_generate_writes_all_classes_as_a_grid_or_a_folder(where, tmp_path):
    result = run("generate", *where, "--count", 3, "--temperature", 0, "--output", tmp_path / "grid.png")
    assert result.exit_code == 0, result.output
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert all((sheet == level).all(-1).sum() >= 3 * 64 * 64 for level in (0, 119, 238))
    result = run("generate", *where, "--class", "all", "--count", 1, "--output", tmp_path / "folder")
    assert result.exit_code == 0, result.output
    names = sorted(file.name for file in (tmp_path / "folder").iterdir())
    assert names == ["0000_dark.png", "0001_grey.png", "0002_bright.png"]


def test_guidance_is_constant_by_default(tmp_path):
    def scales(request):
        params = request.params
        first, last = params.first_guidance_scale, params.last_guidance_scale
        return tf.cast(tf.stack([first, last, first, last], axis=1), tf.int32)

    stand_ins.write_generator(str(tmp_path / "serving" / "vim" / "1"), sample=scales)
    out = tmp_path / "out.npz"
    for schedule, tokens in ([], [5, 5, 5, 5]), (["--guidance-schedule", "linear"], [1, 5, 1, 5]):
        wanted = ["--class", "id:0", "--count", 1, "--guidance-scale", 5, *schedule]
        result = run("generate", "--run", tmp_path, *wanted, "--output", out)
        assert result.exit_code == 0, result.output
        with np.load(out) as archive:
            assert archive["tokens"].tolist() == [tokens]


def test_complete_writes_arrays_with_one_row_per_completion(where, tmp_path, picture):
    out = tmp_path / "out.npz"
    white = flat_picture(tmp_path / "white.png", 255)
    result = run(
        *["complete", *where, picture, white, "--class", "bright", "--count", 2, "--seed", 5],
        *["--keep", 0.4, "--output", out],
    )
    assert (result.exit_code, result.output) == (0, f"{out}: 4 images\n")
    ids, seeds = tf.constant([2] * 4), tf.constant([5, 6, 7, 8], tf.int64)
    prompt = {
        "prompt": tf.constant([[6] * 4] * 2 + [[15] * 4] * 2),
        "prompt_length": tf.constant([2] * 4),
    }
    with np.load(out) as archive:
        np.testing.assert_array_equal(
            archive["tokens"], stand_ins.sample(SamplingRequest(ids, seeds, AT_TEMPERATURE_1, **prompt))
        )
        assert archive["names"].tolist() == ["grey.png"] * 2 + ["white.png"] * 2
        assert archive["originals"].shape == archive["images"].shape == (4, 8, 8, 3)
        assert archive["originals"][:, 0, 0, 0].tolist() == [102, 102, 255, 255]
        assert archive["classes"].tolist() == [2] * 4
        assert archive["kept_rows"].tolist() == [1] * 4
        images = archive["images"]
    assert run("decode", *where, out, "--output", tmp_path / "decoded").exit_code == 0
    for index, name in enumerate(["grey", "grey", "white", "white"]):
        decoded = np.asarray(Image.open(tmp_path / "decoded" / f"{index:04d}_{name}_png.png"))
        np.testing.assert_array_equal(decoded, images[index])


def test_complete_grid_shows_the_kept_part_and_wraps_rows(where, tmp_path, picture):
    def areas(count):
        out = tmp_path / f"{count}.png"
        result = run(
            *["complete", *where, picture, "--class", "id:2", "--temperature", 0, "--count", count],
            *["--output", out],
        )
        assert result.exit_code == 0, result.output
        sheet = np.asarray(Image.open(out))
        shown, blank = (np.median(np.nonzero((sheet == level).all(-1))[0]) for level in (102, 128))
        assert shown < blank  # the upper half is kept
        # In units of half an image; the antialiased letters, which have all greys, fill less than one unit.
        return sheet.shape, [(sheet == level).all(-1).sum() // (32 * 64) for level in (102, 128, 238)]

    (height, width, _), found = areas(14)
    assert found == [2 + 1 + 14, 1, 14]
    (taller, as_wide, _), found = areas(16)
    assert found == [2 + 1 + 16, 1, 16]
    assert (taller, as_wide) == (height + grid.SIDE + grid.GAP, width)


@pytest.mark.parametrize(("keep", "tokens"), [(0, [14] * 4), (1, [6] * 4)])
def test_complete_can_keep_no_rows_or_all_rows(where, tmp_path, picture, keep, tokens):
    out = tmp_path / "out.npz"
    options = ["--class", "bright", "--count", 1, "--temperature", 0, "--keep", keep]
    assert run("complete", *where, picture, *options, "--output", out).exit_code == 0
    with np.load(out) as archive:
        assert archive["tokens"].tolist() == [tokens]


def test_complete_takes_no_class_for_an_unconditional_model(tmp_path, picture):
    stand_ins.write_generator(str(tmp_path / "serving" / "vim" / "1"), class_names=())
    arguments = ["complete", "--run", tmp_path, picture, "--count", 2, "--output", tmp_path / "folder"]
    assert "class must be absent for a model without classes" in error_line(
        run(*arguments, "--class", "id:0"), 2
    )
    assert run(*arguments).exit_code == 0
    names = sorted(file.name for file in (tmp_path / "folder").iterdir())
    assert names == ["0000_grey_png.png", "0001_grey_png.png"]


def test_missing_signature_is_error(tmp_path, picture):
    # A tokenizer has no signature that samples.
    stand_ins.write_tokenizer(str(tmp_path / "serving" / "vim" / "1"))
    rest = ["--run", tmp_path, "--class", "dark", "--output", tmp_path / "x.png"]
    line = error_line(run("generate", "--guidance-schedule", "linear", *rest), 1)
    assert "signature of vim must be one of " in line
    assert line.endswith("got 'generate_linear'")
    assert "got 'complete'" in error_line(run("complete", picture, *rest), 1)


@pytest.mark.parametrize("suffix", ["npz", "json"])
def test_encode_and_decode_are_inverse(where, tmp_path, picture, suffix):
    tokens = tmp_path / f"tokens.{suffix}"
    assert run("encode", *where, picture, "--output", tokens).output == f"{tokens}: 1 row\n"
    result = run("decode", *where, tokens, "--output", tmp_path / "decoded")
    assert result.exit_code == 0, result.output
    decoded = np.asarray(Image.open(tmp_path / "decoded" / "0000_grey_png.png"))
    np.testing.assert_array_equal(decoded, np.full((8, 8, 3), 102))


def test_reconstruct_shows_originals_beside_reconstructions(where, tmp_path, picture):
    out = tmp_path / "pairs.npz"
    assert run("reconstruct", *where, picture, picture, "--output", out).exit_code == 0
    with np.load(out) as archive:
        np.testing.assert_array_equal(archive["images"], archive["originals"])
        assert archive["names"].tolist() == ["grey.png"] * 2
    assert run("reconstruct", *where, picture, "--output", tmp_path / "pairs.png").exit_code == 0
    sheet = np.asarray(Image.open(tmp_path / "pairs.png"))
    assert (sheet == 102).all(-1).sum() >= 2 * 64 * 64


@pytest.mark.parametrize("suffix", ["csv", "json", "npz"])
def test_classify_tells_the_class_of_images_and_folders(where, tmp_path, suffix):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, level in (("a, b.png", 0), ("grey.png", 119), ("white.png", 238)):
        flat_picture(folder / name, level)
    (folder / "x.png").write_bytes(b"no picture")
    out = tmp_path / f"classes.{suffix}"
    result = run("classify", *where, folder, "--output", out)
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, f"{out}: 3 images")
    names, classes = ["a, b.png", "grey.png", "white.png"], ["dark", "grey", "bright"]
    if suffix == "npz":
        with np.load(out) as archive:
            assert archive["names"].tolist() == names
            assert archive["class_names"][archive["class_id"]].tolist() == classes
            np.testing.assert_allclose(archive["probabilities"].max(axis=1), 1.0, atol=1e-3)
        return
    text = out.read_text()
    rows = list(csv.DictReader(text.splitlines())) if suffix == "csv" else json.loads(text)
    assert [(row["name"], row["class"]) for row in rows] == list(zip(names, classes, strict=True))
    assert all(float(row["probability"]) > 0.99 for row in rows)
    if suffix == "json":
        assert [max(row["probabilities"], key=row["probabilities"].get) for row in rows] == classes


def test_images_that_a_server_would_refuse_are_made_smaller(base, tmp_path):
    limits = Limits(max_image_pixels=1000)
    photo = tmp_path / "photo.png"
    Image.fromarray(np.full((300, 200, 3), 102, np.uint8)).save(photo)
    with background_server(str(base), Options(limits=limits)) as server:
        asked = ["--endpoint", server.grpc, photo, "--output", tmp_path / "tokens.json"]
        assert "must have at most 1000 pixels, got 200 x 300" in error_line(run("encode", *asked), 1)
        assert run("encode", *asked, "--max-pixels", 1000).exit_code == 0
        assert json.loads((tmp_path / "tokens.json").read_text())["tokens"] == [[6] * 4]
        asked = ["--class", "dark", *asked[:-1], tmp_path / "out.npz", "--max-pixels", 1000]
        assert run("complete", *asked).exit_code == 0
        assert run("classify", *asked[2:]).exit_code == 0


def error_line(result, code):
    """Return the one-line message of a command that failed with this exit code and without a traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    line = result.output.splitlines()[-1]
    assert line.startswith("Error: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["generate", "--class", "cow", "--output", "x.png"], 2, "all, got 'cow'"),
        (["generate", "--output", "x.jpg"], 2, "nothing (a folder), got x.jpg"),
        (["generate", "--count", "0", "--output", "x.png"], 2, "--count"),
        (["generate", "--top-p", "0", "--output", "x.png"], 2, "--top-p"),
        (["generate", "--endpoint", "http://x:1", "--output", "x.png"], 2, "must be given, got both"),
        (["serve", "--grpc-channel-arguments", "grpc.x"], 2, "must be NAME=VALUE"),
        (["generate", "--model-version", "canary", "--output", "x.png"], 2, "must be given with --endpoint"),
        (["generate", "--guidance-schedule", "x", "--output", "x.png"], 2, "'constant', 'linear'"),
        (["complete", "--output", "x.png"], 2, "IMAGES"),
        (["complete", "text.txt", "--output", "x.png"], 2, "class must be exactly one of id:0 to id:2"),
        (["complete", "text.txt", "--class", "dark", "--class", "grey", "--output", "x.png"], 2, "exactly"),
        (["complete", "text.txt", "--class", "all", "--output", "x.png"], 2, "got 'all'"),
        (["complete", "text.txt", "--class", "id:0", "--keep", "1.1", "--output", "x.png"], 2, "--keep"),
        (["complete", "text.txt", "--class", "id:0", "--keep", "nan", "--output", "x.png"], 2, "1], got nan"),
        (["complete", "text.txt", "--class", "id:0", "--output", "x.png"], 1, "text.txt must be a JPEG"),
        (["encode", "missing.png", "--output", "x.npz"], 2, "missing.png"),
        (["encode", "text.txt", "--output", "x.npz"], 1, "text.txt must be a JPEG"),
        (["classify", "text.txt", "--output", "x.png"], 2, "output must end in .csv, .json, .npz, got x.png"),
        (["reconstruct", "text.txt", "--output", "x.png"], 1, "text.txt must be a JPEG"),
        (["decode", "text.txt", "--output", "x.png"], 1, "text.txt must be an .npz, .json or .tfrecord file"),
        (["decode", "short.json", "--output", "x.png"], 1, "input tokens must be int32 [?, 4], got int32"),
        (["decode", "large.json", "--output", "x.png"], 1, "tokens must be in [0, 16)"),
    ],
)  # fmt: skip
def test_usage_error_exits_with_2_and_failure_with_1(base, tmp_path, monkeypatch, arguments, code, said):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "serving").symlink_to(base)
    (tmp_path / "text.txt").write_text("no picture")
    (tmp_path / "short.json").write_text(json.dumps({"tokens": [[1, 2]]}))
    (tmp_path / "large.json").write_text(json.dumps({"tokens": [[1, 2, 3, 16]]}))
    before = set(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    assert said in error_line(run(*arguments, "--run", "run"), code)
    assert set(tmp_path.iterdir()) == before


def test_missing_run_or_server_is_named_in_the_error(tmp_path):
    for option, place in (("--run", tmp_path), ("--endpoint", "http://127.0.0.1:1")):
        result = run("generate", option, place, "--output", tmp_path / "x.png")
        assert str(place) in error_line(result, 1)
    assert str(tmp_path) in error_line(run("serve", "--run", tmp_path, "--port", 0, "--rest-api-port", 0), 1)


def test_version_and_timeout_are_passed_to_the_client(base, server, tmp_path, monkeypatch):
    asked = []

    def remember(endpoint: str, *, version: int | str | None, timeout: float, credentials: object):
        asked.append((version, timeout))
        return connect(endpoint, timeout=timeout)

    monkeypatch.setattr(commands, "connect", remember)
    for options in ([], ["--timeout", 7], ["--model-version", "17"], ["--model-version", "stable"]):
        result = run("generate", "--endpoint", server.grpc, *options, "--output", tmp_path / "x.png")
        assert result.exit_code == 0, result.output
    assert asked == [(None, 150.0), (None, 7.0), (17, 150.0), ("stable", 150.0)]


def test_a_version_of_thousands_of_digits_is_not_found(server, tmp_path):
    where = ("--endpoint", server.http, "--model-version", "9" * 5000)
    result = run("generate", *where, "--output", tmp_path / "x.png")
    assert "label must be one of stable, got '999" in error_line(result, 1)


def test_channel_arguments_are_numbers_where_they_read_as_such():
    parsed = operate._channel_arguments("grpc.max_connection_age_ms=2000, grpc.x=-1,grpc.lb_policy_name=a=b")
    assert parsed == (("grpc.max_connection_age_ms", 2000), ("grpc.x", -1), ("grpc.lb_policy_name", "a=b"))
    assert operate._channel_arguments(None) == ()
