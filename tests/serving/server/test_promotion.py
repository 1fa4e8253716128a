"""Labels move, and go back."""

import shutil

import pytest

from serving.server import model_config, promotion
from serving.server.models import ModelRepository
from serving.server.promotion import Moved
from serving.wire.errors import ServingError


@pytest.fixture
def config(tmp_path):
    """A file with a model of three versions, the newest of which is served."""
    for version in (5, 6, 7):
        (tmp_path / "vim" / str(version)).mkdir(parents=True)
    path = tmp_path / "models.config"
    path.write_text(f'model_config_list {{ config {{ name: "vim" base_path: "{tmp_path}/vim" }} }}')
    return path


def read(path):
    (model,) = model_config.read(str(path))
    return dict(model.labels), model.policy.specific


def test_a_canary_becomes_stable_and_a_rollback_undoes_it(config):
    path = str(config)
    assert promotion.promote(path, "vim", "stable", 5) == Moved("stable", None, 5)
    assert promotion.promote(path, "vim", "canary") == Moved("canary", None, 7)
    assert read(config) == ({"stable": 5, "canary": 7}, (5, 7))
    assert promotion.promote(path, "vim", "stable") == Moved("stable", 5, 7)
    assert read(config) == ({"stable": 7, "canary": 7, "previous": 5}, (5, 7))
    assert promotion.rollback(path, "vim") == Moved("stable", 7, 5)
    assert read(config) == ({"stable": 5, "canary": 7}, (5, 7))


def test_the_same_promotion_again_keeps_the_way_back(config):
    for version in (5, 6, 6):
        promotion.promote(str(config), "vim", "stable", version)
    assert promotion.rollback(str(config), "vim").now == 5


def test_a_link_to_the_file_stays_a_link(config):
    link = config.with_name("link")
    link.symlink_to(config)
    promotion.promote(str(link), "vim", "stable", 6)
    assert link.is_symlink()
    assert read(config)[0] == {"stable": 6}


@pytest.mark.parametrize(
    ("model", "label", "version", "message"),
    [
        ("vim", "stable", None, "version must be given: vim has no label canary"),
        ("vim", "canary", 7, "vim must have a label stable before a canary"),
        ("vim", "stable", 8, "version of vim must be one of 7, 6, 5, got 8"),
        ("tokens", "stable", 5, "model must be one of vim in .*, got 'tokens'"),
    ],
)
def test_what_cannot_be_promoted_changes_nothing(config, model, label, version, message):
    before = config.read_text()
    with pytest.raises(ServingError, match=message):
        promotion.promote(str(config), model, label, version)
    assert config.read_text() == before


def test_without_a_promotion_there_is_no_way_back(config):
    with pytest.raises(ServingError, match="vim must have a label previous to go back to, got none"):
        promotion.rollback(str(config), "vim")


@pytest.mark.slow
def test_a_server_follows_a_promotion_and_a_rollback(base, tmp_path):
    for version in (17, 18):
        shutil.copytree(base / "vim" / "17", tmp_path / "vim" / str(version))
    path = tmp_path / "models.config"
    path.write_text(f'model_config_list {{ config {{ name: "vim" base_path: "{tmp_path}/vim" }} }}')
    promotion.promote(str(path), "vim", "stable", 17)
    repository = ModelRepository(str(path))

    def stable():
        repository.refresh()
        with repository.model("vim").lease(None, "stable") as servable:
            return servable.version

    assert stable() == 17
    promotion.promote(str(path), "vim", "stable", 18)
    assert stable() == 18
    promotion.rollback(str(path), "vim")
    assert stable() == 17
