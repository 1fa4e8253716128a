"""Which models and versions are served."""

import shutil

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import model_management_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.client.connect import connect
from serving.server import model_config
from serving.server.model_config import ModelConfig, Policy
from serving.server.models import ModelRepository
from serving.server.server import Options, background_server
from serving.wire.errors import RequestError, ServingError

TEXT = """
model_config_list {{
  config {{
    name: "painter" base_path: "{0}/vim" model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 17 versions: 18 }} }}
    version_labels {{ key: "stable" value: 17 }}
    version_labels {{ key: "canary" value: 18 }}
  }}
  config {{ name: "tokens" base_path: "{0}/vit_vqgan" }}
}}
"""


def test_models_policies_and_labels_are_read(tmp_path):
    (tmp_path / "models.config").write_text(TEXT.format("/m"))
    painter, tokens = model_config.read(str(tmp_path / "models.config"))
    labels = {"stable": 17, "canary": 18}
    assert painter == ModelConfig("painter", "/m/vim", Policy(specific=(17, 18)), labels)
    assert tokens == ModelConfig("tokens", "/m/vit_vqgan", Policy(latest=1), {})


@pytest.mark.parametrize(
    ("policy", "versions", "most"),
    [
        (Policy(), [9, 8, 7], 1),
        (Policy(latest=2), [9, 8, 7], 2),
        (Policy(latest=None), [9, 8, 7], None),
        (Policy(specific=(7, 9, 3)), [9, 7], None),
    ],
)
def test_a_policy_names_candidates_and_how_many_of_them(policy, versions, most):
    assert (policy.candidates([9, 8, 7]), policy.most) == (versions, most)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have models of different names, got none"),
        (
            'model_config_list { config { name: "m" } }',
            "must give every model a name and a base_path, got 'm'",
        ),
        ('model_config_list { config { nam: "m" } }', "must hold a ModelServerConfig, got"),
        (
            'model_config_list { config { name: "m" base_path: "/m" } config { name: "m" base_path: "/n" } }',
            "must have models of different names, got m, m",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" '
            "model_version_policy { specific { versions: 3 } } "
            'version_labels { key: "stable" value: 4 } } }',
            "must serve the version 4 that label stable of m names, got versions 3",
        ),
        (
            'model_config_list { config { name: "m" base_path: "/m" model_version_policy { specific {} } } }',
            "model_version_policy of m in .* must name versions, got none",
        ),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, text, message):
    (tmp_path / "models.config").write_text(text)
    with pytest.raises(ServingError, match=message):
        model_config.read(str(tmp_path / "models.config"))


@pytest.fixture
def folder(base, tmp_path):
    """Versions 17 and 18 of one model, and another model."""
    shutil.copytree(base / "vim" / "17", tmp_path / "vim" / "17")
    shutil.copytree(base / "vim" / "17", tmp_path / "vim" / "18")
    shutil.copytree(base / "vit_vqgan", tmp_path / "vit_vqgan")
    return tmp_path


def version_of(repository, model, version=None, label=None):
    with repository.model(model).lease(version, label) as servable:
        return servable.version


@pytest.mark.slow
def test_labels_and_versions_of_a_file_are_served_and_followed(folder):
    path = folder / "models.config"
    path.write_text(TEXT.format(folder))
    repository = ModelRepository(str(path))
    assert version_of(repository, "painter") == 18
    assert version_of(repository, "painter", label="stable") == 17
    assert version_of(repository, "painter", label="canary") == 18
    assert version_of(repository, "painter", version=17) == 17
    with pytest.raises(RequestError, match="label must be one of canary, stable, got 'best'"):
        version_of(repository, "painter", label="best")

    changed = TEXT.format(folder).replace('"stable" value: 17', '"stable" value: 18')
    changed = changed.replace("versions: 17 ", "").replace(
        'config { name: "tokens"', 'config { name: "codes"'
    )
    (folder / "new").write_text(changed)
    (folder / "new").rename(path)
    assert [news.model for news in repository.refresh()] == ["codes"]
    assert version_of(repository, "painter", label="stable") == 18
    with pytest.raises(RequestError, match="version of painter must be 18, got 17"):
        version_of(repository, "painter", version=17)
    with pytest.raises(RequestError, match="model must be one of codes, painter, got 'tokens'"):
        repository.model("tokens")


@pytest.mark.slow
def test_a_client_may_name_the_folders_of_a_file_and_not_what_lies_beside_them(folder):
    path = folder / "models.config"
    path.write_text(f'model_config_list {{ config {{ name: "vim" base_path: "{folder}/vim" }} }}')
    repository = ModelRepository(str(path))
    with pytest.raises(RequestError, match="base_path of other must be in a folder that is served"):
        repository.reload([ModelConfig("other", str(folder / "vit_vqgan"))])
    repository.reload([ModelConfig("other", str(folder / "vim"), Policy(specific=(17,)))])
    assert version_of(repository, "other") == 17


@pytest.mark.slow
def test_a_file_that_becomes_wrong_is_said_once_and_what_is_served_stays(folder):
    path = folder / "models.config"
    path.write_text(TEXT.format(folder))
    repository = ModelRepository(str(path))
    path.write_text("nonsense")
    with pytest.raises(ServingError, match="must hold a ModelServerConfig"):
        repository.refresh()
    assert repository.refresh() == []
    assert version_of(repository, "painter", label="stable") == 17


@pytest.mark.slow
def test_a_reload_is_answered_when_it_is_done_and_stays_in_the_served_folder(folder, base):
    with (
        background_server(str(folder), Options(poll_seconds=0.1)) as server,
        grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel,
    ):
        send = channel.unary_unary("/tensorflow.serving.ModelService/HandleReloadConfigRequest")

        def reload(base_path, specific=()):
            config = model_server_config_pb2.ModelServerConfig()
            one = config.model_config_list.config.add(name="other", base_path=str(base_path))
            if specific:
                one.model_version_policy.specific.versions.extend(specific)
            request = model_management_pb2.ReloadConfigRequest(config=config)
            return model_management_pb2.ReloadConfigResponse.FromString(
                send(request.SerializeToString(), timeout=60)
            )

        for outside in (base / "vim", folder / ".." / "x", "/etc"):
            with pytest.raises(grpc.RpcError) as error:
                reload(outside)
            assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert reload(folder / "vim").status.error_code == 0
        with connect(server.grpc) as client:
            assert client.predict("other", "metadata", {"rows": np.zeros(1, np.int32)})
        (folder / "vim" / "19").mkdir()
        (folder / "vim" / "19" / "saved_model.pb").write_bytes(b"broken")
        (folder / "empty").mkdir()
        for choice, message in ((folder / "empty", "empty must hold a version of other"), (folder, None)):
            answer = reload(choice, specific=() if message else (17, 99))
            assert answer.status.error_code == grpc.StatusCode.NOT_FOUND.value[0]
            assert (message or "version 17 of other must be in ") in answer.status.error_message
        # At once, and when the server's own look has long found it.
        for _ in range(2):
            answer = reload(folder / "vim")
            assert answer.status.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            assert "version 19 of other does not load" in answer.status.error_message
