"""Who may ask a server."""

import http.client
import json
import subprocess

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.client.connect import connect
from serving.client.credentials import Credentials
from serving.server import access
from serving.server.access import Access
from serving.server.rest import METRICS
from serving.server.server import Options, background_server
from serving.wire.errors import ClientError, ServingError

TOKEN = "a-token-of-the-tests"
ROWS = {"rows": np.zeros(1, np.int32)}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A root and two certificates of it, made by OpenSSL."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    root = ("-keyout", "root.key", "-out", "root.pem", "-subj", "/CN=root", "-days", "2")
    # With the extensions that Python 3.13 asks for.
    openssl("req", "-x509", *new, *root, "-addext", "keyUsage=critical,keyCertSign")
    extensions = ("subjectAltName=IP:127.0.0.1", "basicConstraints=CA:FALSE", "authorityKeyIdentifier=keyid")
    (folder / "names").write_text("\n".join(extensions))
    for name in ("server", "client"):
        openssl("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-days", "2")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-extfile", "names", "-out", f"{name}.pem")
    return folder


def ssl_config(folder, **more):
    """An SSLConfig as text, as TF Serving's users write it."""
    fields = {"server_key": "server.key", "server_cert": "server.pem", **more}
    lines = []
    for name, value in fields.items():
        content = value if isinstance(value, bool) else (folder / value).read_text()
        lines.append(f"{name}: {json.dumps(content)}")
    path = folder / "ssl.txt"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.slow
def test_without_the_token_both_protocols_refuse_and_health_answers(base):
    with background_server(str(base), Options(access=Access(token=TOKEN))) as server:
        for endpoint in (server.grpc, server.http):
            for credentials in (Credentials(), Credentials(token="another-token-of-them")):
                with (
                    connect(endpoint, credentials=credentials) as client,
                    pytest.raises(ClientError, match="authorization must be the server's bearer token"),
                ):
                    client.predict("vim", "metadata", ROWS)
            with connect(endpoint, credentials=Credentials(token=TOKEN)) as client:
                assert client.metadata("vim").image_size == 8
        connection = http.client.HTTPConnection(server.http.removeprefix("http://"), timeout=20)
        connection.request("GET", METRICS)
        assert connection.getresponse().status == 401
        with grpc.insecure_channel(server.grpc.removeprefix("grpc://")) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in ("", "tensorflow.serving.PredictionService"):
                answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.slow
def test_a_client_trusts_the_certificate_and_is_asked_for_its_own(base, certificates):
    tls = access.read_tls(ssl_config(certificates, custom_ca="root.pem", client_verify=True))
    roots = str(certificates / "root.pem")
    own = {"certificate": str(certificates / "client.pem"), "key": str(certificates / "client.key")}
    with background_server(str(base), Options(access=Access(tls))) as server:
        assert (server.grpc[:8], server.http[:8]) == ("grpcs://", "https://")
        for endpoint in (server.grpc, server.http):
            with connect(endpoint, credentials=Credentials(root_certificates=roots, **own)) as client:
                assert client.metadata("vim").image_size == 8
            for wrong in (Credentials(root_certificates=roots), Credentials(**own)):
                with connect(endpoint, credentials=wrong, timeout=5) as client, pytest.raises(ClientError):
                    client.metadata("vim")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"server_key": "root.key"}, "must hold PEM, got"),
        ({"server_cert": "server.key"}, "must hold PEM, got"),
        ({"custom_ca": "server.csr"}, "must hold PEM, got"),
    ],
)
def test_a_wrong_certificate_is_one_line_before_anything_is_served(certificates, changes, message):
    with pytest.raises(ServingError, match=message) as error:
        access.read_tls(ssl_config(certificates, **changes))
    assert "\n" not in str(error.value)


def test_clients_certificates_need_their_roots(certificates):
    with pytest.raises(ServingError, match="must have custom_ca with client_verify, got none"):
        access.read_tls(ssl_config(certificates, client_verify=True))


@pytest.mark.slow
def test_bytes_that_are_no_text_are_no_token(base):
    with background_server(str(base), Options(access=Access(token=TOKEN))) as server:
        connection = http.client.HTTPConnection(server.http.removeprefix("http://"), timeout=20)
        connection.request("GET", "/v1/models/vim", headers={"Authorization": b"Bearer \xff\xfe"})
        assert connection.getresponse().status == 401


def test_a_config_without_a_key_is_refused(tmp_path):
    (tmp_path / "ssl.txt").write_text('server_cert: "x"')
    with pytest.raises(ServingError, match="must have server_key, got none"):
        access.read_tls(str(tmp_path / "ssl.txt"))


@pytest.mark.parametrize("content", ["", "short", "with a space in between", "ä" * 20])
def test_a_token_that_is_none_is_refused_without_being_shown(tmp_path, content):
    (tmp_path / "token").write_text(content)
    with pytest.raises(ServingError, match="token-file must") as error:
        access.read_token(str(tmp_path / "token"))
    assert not content or content not in str(error.value)


def test_a_token_is_read_without_its_line_break_and_never_shown(tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    read = Access(token=access.read_token(str(tmp_path / "token")))
    assert read.allows(f"Bearer {TOKEN}")
    assert not any(
        map(read.allows, ("", TOKEN, "Bearer ", f"bearer {TOKEN}", f"Bearer {TOKEN} ", "Bearer ä"))
    )
    assert TOKEN not in repr(read)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.3", "example.org"])
def test_other_machines_need_a_token_or_mtls(host):
    with pytest.raises(ServingError, match=r"host must be 127\.0\.0\.1 without --token-file"):
        access.check_exposure(host, Access(access.Tls("key", "certificate")), insecure=False)
    access.check_exposure(host, Access(token=TOKEN), insecure=False)
    access.check_exposure(host, Access(access.Tls("k", "c", verify_clients=True)), insecure=False)
    access.check_exposure(host, Access(), insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "localhost", "127.8.8.8"])
def test_this_machine_needs_none(host):
    access.check_exposure(host, Access(), insecure=False)
