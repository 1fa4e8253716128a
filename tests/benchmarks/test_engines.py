import click
import pytest
import tensorflow as tf
from click.testing import CliRunner

from benchmarks.engines import WAYS, main, restored
from tfx_pipeline import config
from trainers.vim.model import VIM

pytestmark = pytest.mark.slow

SMALL = ["stage2.model.transformer.blocks=1", "stage2.model.transformer.width=24"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that has trained an image model: 9 tokens of 8 codes, 3 classes."""
    folder = tmp_path_factory.mktemp("run")
    model = VIM(options(), tokens=9, codebook_size=8, classes=3)
    for number, variable in enumerate(model.trainable_variables):
        variable.assign(tf.random.stateless_normal(variable.shape, seed=[0, number]))
    variables = [variable.value for variable in model.variables]
    tf.train.Checkpoint(vim=variables).write(str(folder / "checkpoints" / "vim" / "key" / "ckpt-7"))
    return folder, variables


def options():
    return config.load("digits", SMALL).stage2.model


def test_each_way_has_a_row_and_draws_the_tokens_of_sequential_drawing(run):
    overrides = [part for override in SMALL for part in ("--set", override)]
    asked = [str(run[0]), *overrides, "--batch", "1", "--batch", "2", "--images", "2"]
    result = CliRunner().invoke(main, asked, catch_exceptions=False)
    assert result.exit_code == 0
    assert "ckpt-7: 9 tokens of 8 codes" in result.output
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines() if "│" in line
    ]
    assert [row[:2] for row in rows] == [[images, way] for images in "12" for way in WAYS]
    # Last bits of XLA are its own.
    assert all(row[-1] == "0" or (row[1].startswith("XLA") and int(row[-1]) <= 1) for row in rows)
    for row in rows:
        passes = float(row[2])
        assert passes == 9.0 if "sequential" in row[1] else passes <= 9.0


def test_model_is_that_of_the_newest_checkpoint(run):
    model, name = restored(run[0], options())
    assert (name, model.tokens, model.codebook_size, model.classes) == ("ckpt-7", 9, 8, 3)
    for ours, saved in zip(model.variables, run[1], strict=True):
        tf.debugging.assert_equal(ours.value, saved)


@pytest.mark.parametrize("other", ["stage2.model.transformer.width=36", "stage2.model.transformer.blocks=2"])
def test_a_configuration_of_another_model_is_one_line(run, other):
    with pytest.raises(click.ClickException, match="must be those of"):
        restored(run[0], config.load("digits", [*SMALL, other]).stage2.model)


def test_an_invalid_configuration_and_a_run_without_checkpoints_are_one_line(tmp_path):
    for more, said in (
        (["--set", "stage2.sampler.jacobi_slots=9"], "8, 16 or 32"),
        ([], "must hold checkpoints"),
    ):
        result = CliRunner().invoke(main, [str(tmp_path), *more])
        assert isinstance(result.exception, SystemExit)
        assert said in result.output
