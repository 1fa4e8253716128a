import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from serving.cli import files
from serving.client.connect import connect, open_folder
from serving.server.server import background_server
from serving.wire.errors import ClientError
from tests import stand_ins

pytestmark = pytest.mark.slow

GREY = files.png(np.full((8, 8, 3), 102, np.uint8))
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=["grpc", "http", "folder"])
def client(request, base):
    if request.param == "folder":
        with open_folder(str(base)) as client:
            yield client
    else:
        server = request.getfixturevalue("server")
        with connect(getattr(server, request.param)) as client:
            yield client


def test_all_clients_return_the_same_values_and_dtypes(client):
    tokens = client.predict("vit_vqgan", "encode", {"image_bytes": np.array([GREY], object)})["tokens"]
    assert (tokens.dtype, tokens.tolist()) == (np.int32, [[6] * 4])
    answer = client.predict("vit_vqgan", "decode_pixels", {"tokens": tokens})
    assert answer["pixels"].dtype == np.float32
    np.testing.assert_allclose(answer["pixels"], np.full((1, 8, 8, 3), 6 / 15), rtol=1e-6)
    picture = client.predict("vit_vqgan", "decode", {"tokens": tokens})["image_bytes"]
    assert picture.shape == (1,)
    assert picture[0].startswith(b"\x89PNG")
    described = client.metadata("vim")
    assert described.to_json() == stand_ins.metadata("generator").to_json()


@pytest.mark.parametrize(
    ("model", "signature", "inputs", "said"),
    [
        ("vom", "encode", {}, "vim, vit_vqgan"),
        ("vit_vqgan", "paint", {}, "encode"),
        ("vit_vqgan", "decode", {}, "missing: tokens"),
        ("vit_vqgan", "decode", {"tokens": np.zeros((1, 3), np.int32)}, "[?, 4]"),
        ("vit_vqgan", "decode", {"tokens": np.full((2, 4), [[1], [99]], np.int32)}, "got another in row 1"),
    ],
)
def test_all_clients_raise_one_line_errors(client, model, signature, inputs, said):
    with pytest.raises(ClientError) as caught:
        client.predict(model, signature, inputs)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["localhost:8500", "ftp://localhost", "grpc://", ""])
def test_malformed_endpoint_is_rejected(endpoint):
    with pytest.raises(ClientError, match="endpoint must be grpc://host:port, grpcs://"):
        connect(endpoint)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "grpc://127.0.0.1:1", "http://127.0.0.1:99999"])
def test_unreachable_endpoint_is_error(endpoint):
    with connect(endpoint) as client, pytest.raises(ClientError, match=f"no server answers at {endpoint}"):
        client.metadata("vim")


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"<html>", "with JSON"), (b"[]", "with the signatures"), (b"{}", "with the signatures")],
)
def test_endpoint_that_is_no_model_server_is_error(answer, said):
    class Stranger(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(ClientError, match=said):
                connect(f"http://127.0.0.1:{server.server_port}").metadata("vim")
        finally:
            server.shutdown()


def test_folder_without_models_is_error(tmp_path):
    with pytest.raises(ClientError, match=f"{tmp_path} must hold <model>/<integer version>"):
        open_folder(str(tmp_path))


def test_rest_client_and_commands_do_not_import_tensorflow():
    program = "import sys, serving.cli.commands, serving.client.rest; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=os.environ).returncode == 0


def models(tmp_path, *classes: tuple[str, ...]) -> str:
    """A folder with a version of the generator for each of the classes, the oldest first."""
    for version, names in enumerate(classes, 1):
        stand_ins.write_generator(str(tmp_path / "vim" / str(version)), names)
    return str(tmp_path)


def test_folder_passes_over_a_version_that_does_not_load_and_says_so(tmp_path):
    base = models(tmp_path, ("a", "b"), ("a", "b"))
    (tmp_path / "vim" / "2" / "saved_model.pb").write_bytes(b"cut")
    said = []
    with open_folder(base, said.append) as client:
        scores = client.predict(
            "vim", "score", {"image_bytes": np.array([GREY], object), "class_id": np.zeros(1, np.int32)}
        )
    assert scores
    (line,) = said
    assert line.startswith(f"version 2 of vim in {base} does not load: ")
    assert line.endswith("; version 1 is used")


def test_older_version_with_other_classes_is_no_replacement(tmp_path):
    base = models(tmp_path, ("a", "b"), ("b", "a"))
    (tmp_path / "vim" / "2" / "saved_model.pb").write_bytes(b"cut")
    with (
        open_folder(base) as client,
        pytest.raises(ClientError, match="version 1 has other classes or sizes"),
    ):
        client.predict("vim", "features", {"image_bytes": np.array([GREY], object)})


def test_folder_without_a_version_that_loads_is_an_error(tmp_path):
    base = models(tmp_path, ("a", "b"))
    (tmp_path / "vim" / "1" / "saved_model.pb").write_bytes(b"cut")
    with (
        open_folder(base) as client,
        pytest.raises(ClientError, match=r"version 1 of vim in .* does not load"),
    ):
        client.predict("vim", "features", {"image_bytes": np.array([GREY], object)})


def test_classes_are_known_without_tensorflow(tmp_path):
    base = models(tmp_path, ("a", "b"))
    program = (
        "import sys; from serving.client.connect import open_folder;"
        f"print(open_folder({base!r}).metadata('vim').class_names, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "('a', 'b') False\n"


@pytest.mark.parametrize("content", [None, "", '{"kind": "generator"}'])
def test_without_the_file_the_model_tells_its_metadata(tmp_path, content):
    base = models(tmp_path, ("a", "b"))
    file = tmp_path / "vim" / "1" / "assets.extra" / "tfx_vim.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with open_folder(base) as client:
        assert client.metadata("vim").class_names == ("a", "b")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("version", [-1, 2**63, "", "a:b", "a/b", "a\ud800"])
def test_version_that_no_server_can_have_is_refused(protocol, version):
    with pytest.raises(ClientError, match="version must be"):
        connect(f"{protocol}://localhost:1", version=version)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_version_is_chosen_by_number_or_label(tmp_path, protocol):
    for version in (1, 2):
        stand_ins.write_generator(str(tmp_path / "vim" / str(version)), (f"of {version}",))
    config = tmp_path / "models.config"
    config.write_text(
        f"""model_config_list {{ config {{
            name: "vim" base_path: "{tmp_path}/vim"
            model_version_policy {{ all {{}} }}
            version_labels {{ key: "old one" value: 1 }}
        }} }}"""
    )
    inputs = {"class_id": np.zeros(1, np.int32), "image_bytes": np.array([GREY], object)}
    with background_server(str(config)) as server:
        endpoint = getattr(server, protocol)
        for version, expected in ((None, 2), (1, 1), (2, 2), ("old one", 1), ("stable", 2)):
            with connect(endpoint, version=version) as client:
                assert client.metadata("vim").class_names == (f"of {expected}",)
                assert client.predict("vim", "score", inputs)["bits_per_token"].shape == (1,)
        for version, said in ((3, "version of vim must be 1, 2|unknown"), ("none", "label must be one of")):
            with connect(endpoint, version=version) as client, pytest.raises(ClientError, match=said):
                client.predict("vim", "score", inputs)
