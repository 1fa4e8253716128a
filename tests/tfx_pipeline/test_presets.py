"""Check the presets against the paper (section 5, Tables 1, 2, 4 and 7)."""

import pytest

from tfx_pipeline import config
from tfx_pipeline.config import load
from trainers.training.config import Transformer
from trainers.vit_vqgan.config import Convolutional

SMALL = Transformer(blocks=8, heads=8, width=512, hidden=2048)
BASE = Transformer(blocks=12, heads=12, width=768, hidden=3072)
LARGE = Transformer(blocks=32, heads=16, width=1280, hidden=5120)
VIM_BASE = Transformer(blocks=24, heads=16, width=1536, hidden=6144)
VIM_LARGE = Transformer(blocks=36, heads=32, width=2048, hidden=8192)
PROBES = ["ablations/vim_base", "ablations/vim_base_cnn"]  # last rows of Table 7
IMPORTED = "ablations/vim_base_dvae"  # the row between them
OWN = ("digits", "cifar10", "photos64", "photos256", IMPORTED)
PAPER = [name for name in config.presets() if name not in OWN]
UNSUPERVISED = [name for name in PAPER if name.endswith("_unsupervised")]
ABLATIONS = [name for name in PAPER if name.startswith("ablations/") and name not in PROBES]
SIZED = [name for name in PAPER if name not in UNSUPERVISED + ABLATIONS + PROBES]


@pytest.mark.parametrize("preset", config.presets())
def test_every_preset_loads_in_full_and_small_size_and_states_its_command(preset):
    assert load(preset).name == preset.replace("/", "-")
    assert load(preset, small=True).name == load(preset).name
    head = (config.PRESETS / f"{preset}.yaml").read_text()
    assert f"#   tfx-vim run --preset {preset}\n" in head


@pytest.mark.parametrize("preset", config.presets())
def test_every_small_preset_needs_no_data_and_no_pretrained_weights(preset):
    small = load(preset, small=True)
    assert small.data.source == "digits"
    assert small.data.image_size == 32
    assert not small.stage1.loss.perceptual
    for train in (small.stage1.train, small.classifier.train, small.stage2.train):
        assert (train.steps, train.batch_size) == (4, 16)


def test_ablations_are_listed_last_and_named_by_path():
    ablations = sorted([*ABLATIONS, *PROBES, IMPORTED])
    assert config.presets() == [*sorted(set(config.presets()) - set(ablations)), *ablations]
    assert "ablations/code_dim_8" in ABLATIONS
    assert SIZED == ["celebahq256", "ffhq256", "imagenet256_bb", "imagenet256_sl", "imagenet256_ss"]


@pytest.mark.parametrize("preset", PAPER)
def test_the_tokenizer_trains_as_in_section_5_1(preset):
    stage = load(preset).stage1
    assert (stage.train.batch_size, stage.train.steps) == (256, 500_000)
    assert stage.train.optimizer.model_dump(exclude={"clip_norm"}) == {
        "name": "adam",
        "learning_rate": 1e-4,
        "final_learning_rate": 5e-5,
        "warmup_steps": 50_000,
        "decay_from": None,
        "decay": "cosine",
        "beta_1": 0.9,
        "beta_2": 0.99,
        "epsilon": 1e-12,
        "weight_decay": 1e-4,
    }
    assert stage.train.optimizer.clip_norm is None
    assert (stage.adversary.r1_every, stage.adversary.start_step) == (16, 0)
    gamma = stage.adversary.gamma(image_size=256, batch_size=256)
    if preset == "ablations/patchgan":
        # VQGAN trains it with the tokenizer's optimizer and without the penalty.
        assert (gamma, stage.adversary.optimizer) == (0.0, None)
    else:
        assert gamma == pytest.approx(0.0512)
        assert stage.adversary.optimizer is not None
        assert stage.adversary.optimizer.learning_rate == 2e-3  # StyleGAN2's


@pytest.mark.parametrize("preset", PAPER)
def test_image_is_1024_tokens_of_8192_codes_without_later_techniques(preset):
    configured = load(preset)
    model, codebook = configured.stage1.model, configured.stage1.model.codebook
    assert (configured.data.image_size // model.patch_size) ** 2 == 1024
    assert (codebook.size, codebook.beta) == (8192, 0.25)
    # Techniques newer than the paper are off.
    assert (codebook.entropy, codebook.revive_below, codebook.continuous_steps) == (0.0, 0.0, 0)
    assert configured.stage1.adversary.lecam == 0.0
    assert configured.stage1.train.ema_decay is None


@pytest.mark.parametrize("preset", [*SIZED, *ABLATIONS])
def test_losses_have_the_weights_of_section_3_3(preset):
    weights = load(preset).stage1.loss.model_dump()
    assert weights == {"vq": 1, "l2": 1, "logit_laplace": 0.1, "adversarial": 0.1, "perceptual": 0.1}


def test_every_size_and_data_set_has_an_unsupervised_variant():
    assert [f"{preset}_unsupervised" for preset in SIZED] == UNSUPERVISED


@pytest.mark.parametrize("preset", UNSUPERVISED)
def test_unsupervised_presets_drop_only_perceptual_loss_and_classes(preset):
    supervised, own = load(preset.removesuffix("_unsupervised")), load(preset)
    assert own.stage1.loss.perceptual == 0.0
    same = {"loss": supervised.stage1.loss}
    assert own.stage1.model_copy(update=same) == supervised.stage1
    assert not own.stage2.model.class_conditional
    assert own.data == supervised.data


@pytest.mark.parametrize(
    ("preset", "encoder", "decoder"),
    [
        ("imagenet256_ss", SMALL, SMALL),
        ("imagenet256_bb", BASE, BASE),
        ("imagenet256_sl", SMALL, LARGE),
        ("ffhq256", SMALL, SMALL),
        ("celebahq256", SMALL, SMALL),
        ("ablations/small_small", SMALL, SMALL),
        ("ablations/small_large", SMALL, LARGE),
    ],
)
def test_towers_have_the_sizes_of_table_2(preset, encoder, decoder):
    model = load(preset).stage1.model
    assert (model.encoder, model.decoder) == (encoder, decoder)


@pytest.mark.parametrize("preset", PAPER)
def test_the_image_model_trains_as_in_section_5_2(preset):
    stage = load(preset).stage2
    assert stage.model.transformer == (VIM_BASE if preset in PROBES else VIM_LARGE)
    assert (stage.train.batch_size, stage.train.steps) == (1024, 450_000)
    assert stage.train.precision == "float32"
    # The paper states no weight decay and no gradient clipping for stage 2.
    assert stage.train.optimizer.model_dump(exclude={"epsilon"}) == {
        "name": "adafactor",
        "learning_rate": 4.5e-4,
        "final_learning_rate": 1e-5,
        "warmup_steps": 5000,
        "decay_from": 80_000,
        "decay": "exponential",
        "beta_1": 0.9,
        "beta_2": 0.96,
        "weight_decay": 0.0,
        "clip_norm": None,
    }


@pytest.mark.parametrize("preset", ABLATIONS)
def test_ablation_changes_only_the_tokenizer_of_base_base(preset):
    base = load("imagenet256_bb")
    own = load(preset)
    assert own.stage1 != base.stage1
    assert own.model_copy(update={"name": base.name, "stage1": base.stage1}) == base


def test_ablations_cover_table_4_and_the_second_cnn_of_table_1():
    dims = {load(name).stage1.model.codebook.dim for name in ABLATIONS if "code_dim" in name}
    assert dims | {load("imagenet256_bb").stage1.model.codebook.dim} == {256, 128, 64, 32, 16, 8, 4}
    assert not load("ablations/no_l2_normalization").stage1.model.codebook.l2_normalized
    assert load("ablations/patchgan").stage1.adversary.discriminator.network == "patchgan"
    for name, channels in (("cnn", 128), ("cnn_x2", 256)):
        model = load(f"ablations/{name}").stage1.model
        expected = Convolutional(channels=channels, multipliers=(1, 2, 2, 4), residual_blocks=2)
        assert (model.encoder, model.decoder) == (expected, expected)


@pytest.mark.parametrize("preset", PROBES)
def test_table_7_probes_vim_base_on_unsupervised_tokens(preset):
    base, own = load("imagenet256_ss_unsupervised"), load(preset)
    assert own.stage1.loss.perceptual == 0.0
    # Without classes, and with the dropout of Table 2, which the paper omits only for VIM-Large.
    model = own.stage2.model
    assert (model.class_conditional, model.dropout) == (False, 0.1)
    assert own.stage2.model_copy(update={"model": base.stage2.model}) == base.stage2
    back = {"name": base.name, "stage1": base.stage1, "stage2": base.stage2}
    assert own.model_copy(update=back) == base


def test_table_7_tokenizers_are_small_small_and_the_cnn_of_table_4():
    own, base = (load(preset).stage1 for preset in ("ablations/vim_base", "imagenet256_ss_unsupervised"))
    assert own == base
    cnn = load("ablations/vim_base_cnn").stage1
    assert cnn.model == load("ablations/cnn").stage1.model
    assert cnn.model_copy(update={"model": base.model}) == base


def test_table_7_dvae_preset_changes_only_the_tokenizer_and_when_it_runs():
    own, base = load(IMPORTED), load("ablations/vim_base")
    assert own.stage1 == config.ImportedTokenizer(savedmodel="models/dvae")
    assert (own.stage2.tokens, base.stage2.tokens) == ("cached", "on_the_fly")
    stage2 = own.stage2.model_copy(update={"tokens": "on_the_fly"})
    changed = {"name": base.name, "stage1": base.stage1, "tokens": base.tokens, "stage2": stage2}
    assert own.model_copy(update=changed) == base


@pytest.mark.parametrize("preset", PAPER)
def test_image_models_of_the_papers_size_are_guarded_against_overfitting(preset):
    stage = load(preset).stage2
    assert stage.tokens == "on_the_fly"
    assert (stage.train.ema_decay, stage.train.export) == (0.9999, "best")


def test_cifar10_has_64_tokens_and_no_perceptual_network():
    configured = load("cifar10")
    assert (configured.data.image_size // configured.stage1.model.patch_size) ** 2 == 64
    assert configured.stage1.loss.perceptual == 0.0
    assert configured.stage1.loss.adversarial == 0.1
