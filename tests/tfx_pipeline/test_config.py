import pytest
import yaml

from tfx_pipeline import config
from tfx_pipeline.config import Config, ConfigError, load


@pytest.mark.parametrize("preset", config.presets())
def test_every_preset_is_valid_whole_and_shrunk(preset):
    assert load(preset).name == preset
    assert load(preset, small=True) != load(preset)


def test_overrides_reach_any_depth_and_keep_their_type():
    changed = load("digits", ["stage1.train.steps=1000", "data.source=folder:/a b", "seed=7"])
    assert (changed.stage1.train.steps, changed.data.source, changed.seed) == (1000, "folder:/a b", 7)


def test_an_override_replaces_what_stood_there():
    assert load("digits", ["evaluation.generation.thresholds={}"]).evaluation.generation.thresholds == {}


def test_a_preset_may_be_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**load("digits").model_dump(mode="json"), "name": "mine"}))
    assert load(str(path)).name == "mine"


def test_the_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load("digits").seed = 1


def test_it_survives_json():
    assert Config.model_validate_json(load("digits").model_dump_json()) == load("digits")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["stage1.train.stepz=3"], r"unknown key stage1\.train\.stepz; allowed are steps, batch_size"),
        (["nothing=3"], "unknown key nothing; allowed are name, seed, data"),
        (
            ["evaluation.reconstruction.thresholds.psnr.least=3"],
            r"unknown key .*psnr\.least; allowed are min, max",
        ),
        (["stage1.train.steps=many"], r"stage1\.train\.steps: .*integer.*given: 'many'"),
        (["stage1.train.steps=0"], r"stage1\.train\.steps: .*greater than 0.*given: 0"),
        (["stage1=3"], r"stage1: .*given: 3"),
        (["seed.deeper=3"], r"unknown key seed\.deeper; seed holds a value"),
        (["data.source=ftp:x"], "data.source: allowed are digits, folder:DIR"),
        (["data.image_size=30"], "data.image_size 30 is not a multiple of stage1.model.patch_size 8"),
        (
            ["stage2.model.transformer={blocks: 1, heads: 5, width: 128, hidden: 8}"],
            "stage2.model.transformer: heads 5 does not divide width 128",
        ),
        (["stage1.train.log_every=25"], "log_every 25 is not a multiple of steps_per_call 10"),
        (["data.splits={train: 1, test: 1}"], "the two splits train and eval"),
        (["stage1.train.steps"], "not of the form key.key=value"),
        (
            ["tokens.augmentations=2", "data.augmentation.min_scale=1.0"],
            "tokens.augmentations 2 would repeat",
        ),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(overrides, line):
    with pytest.raises(ConfigError, match=line) as raised:
        load("digits", overrides)
    assert "\n" not in str(raised.value)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown preset .nope.; allowed are .*digits"):
        load("nope")


def test_a_broken_file_is_one_line(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1,\nb: {")
    with pytest.raises(ConfigError, match="cannot read") as raised:
        load(str(path))
    assert "\n" not in str(raised.value)
