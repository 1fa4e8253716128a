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
        (["stage1.train.stepz=3"], r"unknown key stage1\.train\.stepz: must be one of steps, batch_size"),
        (["nothing=3"], "unknown key nothing: must be one of name, seed, data"),
        (
            ["evaluation.reconstruction.thresholds.psnr.least=3"],
            r"unknown key .*psnr\.least: must be one of min, max",
        ),
        (["stage1.train.steps=many"], r"stage1\.train\.steps must be a valid integer, got 'many'"),
        (["stage1.train.steps=0"], r"stage1\.train\.steps must be greater than 0, got 0"),
        (["stage1=3"], "stage1 must be .* Stage1, got 3"),
        (["stage1.model.patch_size=1"], r"patch_size must be greater than or equal to 2, got 1"),
        (["seed=4294967296"], "seed must be less than 2147483648"),
        (
            ["evaluation.generation.sampling.guidance_scale=.inf"],
            r"sampling\.guidance_scale must be a finite number, got inf",
        ),
        (["evaluation.generation.sampling.top_k=2147483648"], "top_k must be less than 2147483648"),
        (
            ["stage1.adversary.discriminator.minibatch_stddev=5"],
            "minibatch_stddev must divide the 64 images of a micro-batch .*, got 5",
        ),
        (["stage1={savedmodel: theirs, train: 3}"], r"unknown key stage1\.train: must be one of savedmodel"),
        (["stage1={savedmodel: ''}"], r"stage1\.savedmodel must have at least 1 character, got ''"),
        (
            ["classifier={network: ResNet101, train: 3}"],
            r"unknown key classifier\.train: must be one of network",
        ),
        (
            ["classifier={network: ResNet18}"],
            r"classifier\.network must be one of ResNet50, .*, got 'ResNet18'.*ResNet1",
        ),
        (["seed.deeper=3"], r"unknown key seed\.deeper: seed is a value"),
        (["data.source=ftp:x"], "data.source must be one of digits, folder:DIR"),
        (["data.image_size=30"], "data.image_size must be a multiple of stage1.model.patch_size 8, got 30"),
        (
            ["stage2.model.transformer={blocks: 1, heads: 5, width: 128, hidden: 8}"],
            "stage2.model.transformer: width must be a multiple of heads 5, got 128",
        ),
        (["stage1.train.log_every=25"], "log_every must be a multiple of steps_per_call 10, got 25"),
        (
            ["data.splits={train: 1, test: 1}"],
            "splits must be the shares of train and eval, got test, train",
        ),
        (["stage1.train.steps"], "--set must be of the form key.key=value, got 'stage1.train.steps'"),
        (
            ["tokens.augmentations=2", "data.augmentation.min_scale=1.0"],
            "tokens.augmentations must be 0 if .*, got 2",
        ),
        (["evaluation.generation.acceptance=0"], r"acceptance must be greater than 0, got 0"),
        (
            ["evaluation.generation.acceptance=0.5", "stage2.model.class_conditional=false"],
            "acceptance must be 1.0 if stage2.model.class_conditional is false, got 0.5",
        ),
        (
            ["evaluation.generation.sampling.guidance_scale=2.0", "stage2.model.class_dropout=0"],
            "guidance_scale must be 1.0 unless .*class_dropout is above 0, got 2.0",
        ),
        (
            ["stage2.tokens=on_the_fly", "tokens.augmentations=0", "data.augmentation.min_scale=1.0"],
            "stage2.tokens must be cached if .*, got on_the_fly",
        ),
        (
            ["evaluation.generation.thresholds={fid_eval: {worse_by: 1}}"],
            "fid_eval must have min or max, got worse_by: neither way is better",
        ),
        (
            ["evaluation.generation.sampling.guidance_schedule=cosine"],
            r"guidance_schedule must be 'constant' or 'linear', got 'cosine'",
        ),
    ],
)
def test_invalid_configuration_is_one_line_error_that_names_the_key(overrides, line):
    with pytest.raises(ConfigError, match=line) as raised:
        load("digits", overrides)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("preset", "override", "meant"),
    [
        ("digits", "stage2.model.dropuot=0.1", "dropout"),
        ("digits", "stagee1.train.steps=3", "stage1"),
        ("digits", "evaluation.generation.thresholds={class_acuracy: {min: 0.5}}", "class_accuracy"),
        ("digts", "seed=1", "digits"),
        ("cnn", "seed=1", "ablations/cnn"),
    ],
)
def test_near_name_is_proposed(preset, override, meant):
    with pytest.raises(ConfigError, match=f"; did you mean {meant}\\?$"):
        load(preset, [override])


def test_missing_file_of_a_preset_is_named():
    with pytest.raises(ConfigError, match=r"^preset must be a \.yaml file that exists, got 'mine\.yaml'$"):
        load("mine.yaml")


def test_label_tells_the_changes_against_the_preset():
    config = load(
        "digits", ["stage2.model.dropout=0.3", "stage1.train.steps=700", "data.source=folder:a b/c"]
    )
    assert config.label("stage2") == "dropout=0.3"
    assert config.label("stage1", "data") == "source=folder-a-b-c_steps=700"
    assert (
        load("digits", [f"stage2.model.dropout={load('digits').stage2.model.dropout}"]).label("stage2") == ""
    )
    assert load("digits", small=True).label("stage1", "stage2", "data", "seed") == ""


def test_tower_with_any_convolutional_key_is_convolutional():
    tower = "{multipliers: [1, 2, 2, 4]}"
    model = load("digits", [f"stage1.model.encoder={tower}", f"stage1.model.decoder={tower}"]).stage1.model
    assert (model.encoder.channels, model.encoder.downsampling) == (128, 8)


def test_imported_tokenizer_has_no_trained_stage_1():
    configured = load("digits", ["stage1={savedmodel: theirs}", "data.image_size=30"])
    assert configured.stage1.savedmodel == "theirs"
    with pytest.raises(ConfigError, match="stage1 must be trained, got an import of theirs"):
        _ = configured.trained_stage1
    assert load("digits").trained_stage1 == load("digits").stage1


def test_unknown_preset_error_lists_known_presets():
    with pytest.raises(ConfigError, match=r"preset must be one of .*digits.*, got 'nope'"):
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
        ("{base: nope, name: mine}", "preset must be one of .*digits.*, got 'nope'"),
        ("{base: mine.yaml, name: mine}", "^base: must not be circular, got mine.yaml -> mine.yaml$"),
        ("{base: other.yaml, name: mine}", "circular, got mine.yaml -> other.yaml -> mine.yaml"),
        ("{base: [digits], name: mine}", r"base: must be the name of a preset .*, got \['digits'\]"),
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
