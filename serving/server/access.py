"""Who may ask a server: TLS by TF Serving's `--ssl_config_file`, and a bearer token."""

from __future__ import annotations

import hmac
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from aiohttp import web
from aiohttp.typedefs import Handler

from serving.server import textproto
from serving.wire.errors import RequestError, ServingError, one_line

# Probes have no credentials, and health says nothing but whether models are served.
OPEN = (
    "/grpc.health.v1.Health/Check",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
)
OPEN_PATHS = ("/v2/health/live", "/v2/health/ready")
_FEWEST = 16
# Of ssl_config.proto: the contents of PEM files.
_SSL = {"server_key": str, "server_cert": str, "custom_ca": str, "client_verify": bool}


@dataclass(frozen=True)
class Tls:
    """Certificates in PEM.

    Attributes:
      key: the server's private key.
      certificate: the server's, with those between it and its root.
      client_ca: roots of clients' certificates; needed to verify them.
      verify_clients: whether a client must have one (mTLS).
    """

    key: str = field(repr=False)
    certificate: str
    client_ca: str = ""
    verify_clients: bool = False

    @property
    def grpc(self) -> grpc.ServerCredentials:
        """For gRPC."""
        return grpc.ssl_server_credentials(
            [(self.key.encode(), self.certificate.encode())],
            root_certificates=self.client_ca.encode() or None,
            require_client_auth=self.verify_clients,
        )

    @property
    def http(self) -> ssl.SSLContext:
        """For REST.

        Raises:
          ServingError: OpenSSL does not take a certificate or the key.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # OpenSSL reads the server's own from files only; nobody else may read them.
        with tempfile.TemporaryDirectory() as folder:
            paths = os.path.join(folder, "certificate"), os.path.join(folder, "key")
            for path, content in zip(paths, (self.certificate, self.key), strict=True):
                with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as file:
                    file.write(content)
            try:
                context.load_cert_chain(*paths)
                if self.client_ca:
                    context.load_verify_locations(cadata=self.client_ca)
            except (ssl.SSLError, ValueError) as error:
                raise ServingError(f"ssl_config_file must hold PEM, got {one_line(error)}") from error
        if self.verify_clients:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
      tls: certificates; plain text if None.
      token: that every request must carry; none if empty.
    """

    tls: Tls | None = None
    token: str = field(default="", repr=False)

    @property
    def restricted(self) -> bool:
        """Whether strangers are refused."""
        return bool(self.token) or bool(self.tls and self.tls.verify_clients)

    def allows(self, authorization: str) -> bool:
        """Whether a request with this header may be answered."""
        wanted = f"Bearer {self.token}"
        return not self.token or hmac.compare_digest(
            authorization.encode(errors="surrogateescape"), wanted.encode()
        )


ANYONE = Access()


def read_token(path: str) -> str:
    """Read a bearer token from a file.

    Raises:
      ServingError: it cannot be read, or is too short to be a secret.
    """
    try:
        with open(path, encoding="ascii") as file:
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServingError(f"token-file must be a file of ASCII, got {one_line(error)}") from error
    if len(token) < _FEWEST or not token.isprintable() or " " in token:
        raise ServingError(f"token-file must hold {_FEWEST} printable characters or more, without spaces")
    return token


def read_tls(path: str) -> Tls:
    """Read TF Serving's `--ssl_config_file`.

    Raises:
      ServingError: it holds something else, or lacks the key or the certificate.
    """
    given = textproto.read(path, "SSLConfig", _SSL)
    for name in ("server_key", "server_cert"):
        if not given.get(name):
            raise ServingError(f"{path} must have {name}, got none")
    tls = Tls(
        given["server_key"],
        given["server_cert"],
        given.get("custom_ca", ""),
        given.get("client_verify", False),
    )
    if tls.verify_clients and not tls.client_ca:
        raise ServingError(f"{path} must have custom_ca with client_verify, got none")
    tls.http  # noqa: B018 - checks that the certificate and the key are readable and belong together
    return tls


def check_exposure(host: str, access: Access, insecure: bool) -> None:
    """Refuse to let other machines ask without any credentials, unless that is said to be wanted.

    Raises:
      ServingError: `host` is reachable from outside, and neither a token nor mTLS is required.
    """
    if access.restricted or insecure or is_loopback(host):
        return
    raise ServingError(
        "host must be 127.0.0.1 without --token-file or an --ssl-config-file with client_verify, "
        f"got {host}; --insecure lets everybody in"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Answers calls without the token with UNAUTHENTICATED."""

    def __init__(self, access: Access):
        self._access = access
        self._refusal = grpc.stream_unary_rpc_method_handler(_refuse)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """As gRPC calls it."""
        given = dict(details.invocation_metadata or ()).get("authorization", "")
        if details.method in OPEN or self._access.allows(str(given)):
            return await continuation(details)
        return self._refusal


async def _refuse(request: Any, context: grpc.aio.ServicerContext) -> None:
    del request
    error = unauthenticated()
    await context.abort(error.code, error.message)


def token_middleware(access: Access) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Answers requests without the token with 401."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        allowed = access.allows(request.headers.get("Authorization", ""))
        if not allowed and request.path not in OPEN_PATHS:
            raise unauthenticated()
        return await handler(request)

    return check


def unauthenticated() -> RequestError:
    """A request without the token: UNAUTHENTICATED, HTTP 401."""
    return RequestError(grpc.StatusCode.UNAUTHENTICATED, "authorization must be the server's bearer token")
