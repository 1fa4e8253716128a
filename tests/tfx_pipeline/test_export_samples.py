import zipfile

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from tfx.types import standard_artifacts

from components.image_sampler.executor import Executor
from serving.export.sampling_params import SamplingParams
from tests import stand_ins
from tests.components.evaluators import artifacts
from tfx_pipeline.cli import cli
from tfx_pipeline.export_samples import export


def samples(folder, class_names=stand_ins.CLASSES):
    """Draw 10 images in three shards; the artifact's folder."""
    model = artifacts.write_model(folder / "model", stand_ins.write_generator, class_names=class_names)
    output = artifacts.artifact(standard_artifacts.Examples, folder / "examples")
    Executor(artifacts.beam_context()).Do(
        artifacts.as_lists(model=model),
        artifacts.as_lists(examples=output),
        {
            "samples": 10,
            "acceptance": 1.0,
            "sampling": SamplingParams().model_dump_json(),
            "shard_size": 4,
            "batch_size": 4,
            "drawn": str(folder / "drawn"),
            "pushed": "",
        },
    )
    return folder / "examples"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return samples(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def images(drawn):
    files = sorted(map(str, (drawn / "Split-samples").iterdir()))
    features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
    parsed = [tf.io.parse_single_example(one, features) for one in tf.data.TFRecordDataset(files)]
    return np.stack([tf.io.decode_png(one["image/encoded"]).numpy() for one in parsed])


def run(*arguments):
    return CliRunner().invoke(cli, ["export-samples", *map(str, arguments)])


def test_the_archive_has_all_images_and_their_classes(drawn, images, tmp_path):
    result = run("--samples", drawn, "--output", tmp_path / "samples.npz")
    assert result.output == f"{tmp_path}/samples.npz: 10 images\n"
    with np.load(tmp_path / "samples.npz") as archive:
        assert sorted(archive.files) == ["arr_0", "arr_1"]
        np.testing.assert_array_equal(archive["arr_0"], images)
        assert archive["arr_0"].dtype == np.uint8
        assert archive["arr_1"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    with zipfile.ZipFile(tmp_path / "samples.npz") as archive:
        # ADM's evaluator reads the stored bytes piece by piece.
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_only_kept_samples_are_written_if_some_were_rejected(drawn, images, tmp_path):
    assert export(str(drawn), [0, 4, 9], str(tmp_path / "kept.npz")) == 3
    with np.load(tmp_path / "kept.npz") as archive:
        np.testing.assert_array_equal(archive["arr_0"], images[[0, 4, 9]])
        assert archive["arr_1"].tolist() == [0, 1, 0]


def test_numbers_that_were_not_drawn_leave_no_archive(drawn, tmp_path):
    with pytest.raises(ValueError, match="must have 2 of the wanted images, got 1"):
        export(str(drawn), [4, 400], str(tmp_path / "kept.npz"))
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_classes_has_no_second_array(tmp_path):
    export(str(samples(tmp_path, ())), None, str(tmp_path / "samples.npz"))
    with np.load(tmp_path / "samples.npz") as archive:
        assert archive.files == ["arr_0"]


def test_a_damaged_file_is_named_and_the_old_archive_stays(tmp_path):
    drawn = samples(tmp_path)
    output = tmp_path / "samples.npz"
    output.write_bytes(b"old")
    file = max((drawn / "Split-samples").iterdir())
    file.write_bytes(file.read_bytes()[:-9])
    result = run("--samples", drawn, "--output", output)
    assert result.exit_code == 1
    assert f"{file} is damaged" in result.output
    assert output.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--run", "."], "--run must be the folder of a finished run, got ."),
        (["--samples", "."], "./dataset.json must be a valid dataset.json"),
    ],
)
def test_what_has_no_samples_is_refused_in_one_line(arguments, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, "--output", "samples.npz")
    assert result.exit_code == 1
    assert line in result.output
    assert not (tmp_path / "samples.npz").exists()
