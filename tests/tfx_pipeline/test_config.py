import pytest
import yaml

from tfx_pipeline.config import Config, ConfigError, load


def test_overrides_reach_any_depth_and_keep_their_type():
    changed = load("digits", ["stage1.train.steps=1000", "data.source=folder:/a b", "seed=7"])
    assert (changed.stage1.train.steps, changed.data.source, changed.seed) == (1000, "folder:/a b", 7)


def test_override_replaces_the_whole_value():
    assert load("digits", ["evaluation.generation.thresholds={}"]).evaluation.generation.thresholds == {}


def test_a_preset_may_be_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**load("digits").model_dump(mode="json"), "name": "mine"}))
    assert load(str(path)).name == "mine"


def test_the_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load("digits").seed = 1


def test_configuration_round_trips_through_json():
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
        (["stage1.model.patch_size=1"], r"patch_size: .*greater than or equal to 2.*given: 1"),
        (["seed=4294967296"], r"seed: .*less than 2147483648"),
        (
            ["evaluation.generation.sampling.guidance_scale=.inf"],
            r"sampling\.guidance: .*finite number.*given: inf",
        ),
        (["evaluation.generation.sampling.top_k=2147483648"], r"top_k: .*less than 2147483648"),
        (
            ["stage1.adversary.discriminator.minibatch_stddev=5"],
            r"minibatch_stddev 5 does not divide the 64 images of train\.batch_size",
        ),
        (["stage1={savedmodel: theirs, train: 3}"], r"unknown key stage1\.train; allowed are savedmodel"),
        (["stage1={savedmodel: ''}"], r"stage1\.savedmodel: .*at least 1 character.*given: ''"),
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
        (["evaluation.generation.acceptance=0"], r"acceptance: .*greater than 0.*given: 0"),
        (
            ["evaluation.generation.acceptance=0.5", "stage2.model.class_conditional=false"],
            "acceptance 0.5 needs classes, and stage2.model.class_conditional is false; allowed is 1.0",
        ),
        (
            ["evaluation.generation.sampling.guidance_scale=2.0", "stage2.model.class_dropout=0"],
            "guidance 2.0 needs a model that knows images with and without their class",
        ),
        (
            ["stage2.tokens=on_the_fly", "tokens.augmentations=0", "data.augmentation.min_scale=1.0"],
            "stage2.tokens on_the_fly would make the same tokens in every epoch",
        ),
        (
            ["evaluation.generation.sampling.guidance_schedule=cosine"],
            r"guidance_schedule: .*'constant' or 'linear'.*given: 'cosine'",
        ),
    ],
)
def test_invalid_configuration_is_one_line_error_that_names_the_key(overrides, line):
    with pytest.raises(ConfigError, match=line) as raised:
        load("digits", overrides)
    assert "\n" not in str(raised.value)


def test_tower_with_any_convolutional_key_is_convolutional():
    tower = "{multipliers: [1, 2, 2, 4]}"
    model = load("digits", [f"stage1.model.encoder={tower}", f"stage1.model.decoder={tower}"]).stage1.model
    assert (model.encoder.channels, model.encoder.downsampling) == (128, 8)


def test_imported_tokenizer_has_no_trained_stage_1():
    configured = load("digits", ["stage1={savedmodel: theirs}", "data.image_size=30"])
    assert configured.stage1.savedmodel == "theirs"
    with pytest.raises(ConfigError, match="stage1 is imported from theirs; nothing of it is trained"):
        _ = configured.trained_stage1
    assert load("digits").trained_stage1 == load("digits").stage1


def test_unknown_preset_error_lists_known_presets():
    with pytest.raises(ConfigError, match=r"unknown preset .nope.; allowed are .*digits"):
        load("nope")


def write(folder, name, text):
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def test_preset_with_a_base_overrides_only_its_own_keys(tmp_path):
    mine = write(tmp_path, "mine", "{base: digits, name: mine, stage1: {train: {steps: 700}}}")
    changed = load(mine)
    assert (changed.name, changed.stage1.train.steps) == ("mine", 700)
    back = {"name": "digits", "stage1": load("digits").stage1}
    assert changed.model_copy(update=back) == load("digits")


def test_bases_chain_and_their_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "deeper").mkdir()
    write(tmp_path, "lower", "{base: digits, name: lower, seed: 3, data: {num_shards: 5}}")
    upper = write(tmp_path / "deeper", "upper", "{base: ../lower.yaml, name: upper, data: {num_shards: 7}}")
    assert (load(upper).seed, load(upper).data.num_shards, load(upper).data.image_size) == (3, 7, 32)


def test_small_sections_merge_with_those_of_the_base(tmp_path):
    mine = write(tmp_path, "mine", "{base: digits, name: mine, small: {stage1: {train: {steps: 6}}}}")
    assert load(mine, small=True).stage1.train.steps == 6
    assert load(mine, small=True).stage2 == load("digits", small=True).stage2


def test_only_tag_replaces_a_mapping_instead_of_merging_it(tmp_path):
    bounds = "evaluation: {reconstruction: {thresholds: %s{l2: {max: 1.0}}}}"
    merged = write(tmp_path, "merged", f"base: digits\nname: a\n{bounds % ''}")
    alone = write(tmp_path, "alone", f"base: digits\nname: b\n{bounds % '!only '}")
    assert set(load(merged).evaluation.reconstruction.thresholds) == {"psnr", "codebook_usage", "l2"}
    assert set(load(alone).evaluation.reconstruction.thresholds) == {"l2"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{base: digits}", "^name is missing$"),
        ("{base: nope, name: mine}", "unknown preset 'nope'; allowed are .*digits"),
        ("{base: mine.yaml, name: mine}", "^base: goes in a circle: mine.yaml -> mine.yaml$"),
        ("{base: other.yaml, name: mine}", "circle: mine.yaml -> other.yaml -> mine.yaml"),
        ("{base: [digits], name: mine}", r"base: is the name of a preset, .*given: \['digits'\]"),
        ("{base: digits, name: mine, data: !only 3}", "cannot read .*expected a mapping"),
        ("{base: digits, name: mine, data: !other {}}", "cannot read .*!other"),
    ],
)
def test_invalid_base_is_one_line_error(tmp_path, text, line):
    write(tmp_path, "other", "{base: mine.yaml, name: other}")
    with pytest.raises(ConfigError, match=line) as raised:
        load(write(tmp_path, "mine", text))
    assert "\n" not in str(raised.value)


def test_broken_file_is_one_line_error(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1,\nb: {")
    with pytest.raises(ConfigError, match="cannot read") as raised:
        load(str(path))
    assert "\n" not in str(raised.value)
