"""TLS, client certificates and proxies."""

import os
import re
import ssl
import sys
from pathlib import Path

import pytest

from nemovlm.errors import ConfigurationError, ServerError
from tests.support.faults import FaultServer, failing
from tests.support.remote import TEXTS, Call, all_right, error_of, remote

pytestmark = pytest.mark.timeout(60)


_TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def _no_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever authorities the tester's environment names, no test trusts them."""
    for name in _TRUST:
        monkeypatch.delenv(name, raising=False)


def tls_of(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("verify", ["ca.pem", "~/ca.pem", "authorities", "false", " False ", False])
async def test_tls(call: Call, certificates: Path, monkeypatch: pytest.MonkeyPatch, verify: str | bool) -> None:
    """`verify` names the authority to trust, a folder of them, or is False for anybody."""
    monkeypatch.setenv("HOME", str(certificates))
    with failing(tls=tls_of(certificates / "server.pem")) as server:
        path = verify and (certificates / verify)
        with remote(server, verify=path if path and path.exists() else verify) as embedder:
            assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
        assert server.url.startswith("https://")


async def test_tls_of_an_unknown_authority(call: Call, certificates: Path) -> None:
    """It is not trusted by default; nothing is sent, and the error names the certificate."""
    with failing(tls=tls_of(certificates / "server.pem")) as server:
        with remote(server, verify="true") as embedder:
            error = await error_of(call, embedder)
        assert isinstance(error, ServerError)
        assert "unable to get local issuer certificate" in str(error)
        assert "pass the file of its authority as verify, or set SSL_CERT_FILE" in str(error)
        assert not server.requests


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        ("ca", "self-signed certificate.*pass the file of its authority as verify"),
        ("expired", "certificate has expired.*have it renewed"),
        ("elsewhere", "IP address mismatch.*base_url must have an address that the certificate is made for"),
    ],
)
async def test_certificates_that_are_wrong(call: Call, certificates: Path, certificate: str, words: str) -> None:
    """The error says what is wrong with it, and what would help."""
    if certificate == "ca":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates / "ca.pem", certificates / "ca.key")
    else:
        context = tls_of(certificates / f"{certificate}.pem")
    trusted = None if certificate == "ca" else certificates / "ca.pem"
    with failing(tls=context) as server, remote(server, verify=trusted or True) as embedder:
        assert re.search(words, str(await error_of(call, embedder)))


@pytest.mark.parametrize("name", _TRUST)
async def test_authorities_of_the_environment(
    call: Call, certificates: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What httpx or requests would trust is trusted; a file that is not there is an error with the variable's name."""
    folders = os.pathsep.join([str(certificates), str(certificates / "authorities")])
    monkeypatch.setenv(name, folders if name == "SSL_CERT_DIR" else str(certificates / "ca.pem"))
    with failing(tls=tls_of(certificates / "server.pem")) as server:
        with remote(server, verify=True) as embedder:
            assert all_right(await call(embedder, "embed", ["a"]), ["a"])
        monkeypatch.setenv(name, str(certificates / "nowhere.pem"))
        with remote(server, verify=True) as embedder, pytest.raises(ConfigurationError, match=f"{name}=.*nowhere.pem"):
            await call(embedder, "embed", ["a"])


async def test_authorities_that_nobody_needs(server: FaultServer, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there stops nobody whose server speaks http."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    with remote(server, verify=True) as embedder:
        assert all_right(await call(embedder, "embed", ["a"]), ["a"])


@pytest.mark.parametrize("form", ["one file", "two files", None])
async def test_client_certificates(call: Call, certificates: Path, form: str | None) -> None:
    """`cert` is shown to a server that wants one, as one file or as two."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "server.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    pair = (certificates / "client.crt", certificates / "client.key")
    cert = {"one file": certificates / "client.pem", "two files": pair, None: None}[form]
    with failing(tls=context) as server, remote(server, verify=certificates / "ca.pem", cert=cert) as embedder:
        if form:
            assert all_right(await call(embedder, "embed", ["a"]), ["a"])
            assert dict(part[0] for part in server.peers[0]["subject"])["commonName"] == "client"
        else:
            assert isinstance(await error_of(call, embedder), ServerError)
            assert not server.requests


@pytest.mark.parametrize("how", ["proxy", "environment"])
async def test_proxies(server: FaultServer, call: Call, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """`proxy`, or that of the environment, is asked for the whole address."""
    if how == "environment":
        monkeypatch.setenv("HTTP_PROXY", server.url)
    knobs = {"proxy": server.url} if how == "proxy" else {}
    with remote(base_url="http://model.test", **knobs) as embedder:
        assert all_right(await call(embedder, "embed", ["a"]), ["a"])
    assert server.sent[0].target == "http://model.test/v1/embeddings"


async def test_a_proxy_without_the_server(server: FaultServer, call: Call) -> None:
    """A tunnel is asked for with CONNECT; the refusal is an error without the proxy's password."""
    proxy = server.url.replace("http://", "http://user:secret@")
    with remote(base_url="https://model.test", proxy=proxy) as embedder:
        error = await error_of(call, embedder)
    assert (server.requests[0].method, server.requests[0].target) == ("CONNECT", "model.test:443")
    assert isinstance(error, ServerError)
    assert "secret" not in f"{error}{error!r}{embedder!r}{embedder.settings!r}"


@pytest.mark.parametrize(
    "variables",
    [
        {"NO_PROXY": "localhost,127.0.0.1,::1,fd07:b51a:cc66::/64"},
        {"NO_PROXY": "10.0.0.0/8 [::1],127.0.0.0/8", "HTTP_PROXY": "http://192.0.2.1:3128"},
        {"no_proxy": "*", "ALL_PROXY": "nonsense://x"},
        {"NO_PROXY": "127.0.0.1", "ALL_PROXY": "socks5://192.0.2.1"},
        {"HTTPS_PROXY": "socks5://192.0.2.1"},
    ],
)
async def test_proxies_that_concern_nobody(
    server: FaultServer, call: Call, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """A server that is reached directly needs neither a proxy that can be used nor a NO_PROXY that httpx can read."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with remote(server) as embedder:
        assert all_right(await call(embedder, "embed", ["a"]), ["a"])


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HTTP_PROXY", "nonsense://u:secret@x", "HTTP_PROXY cannot be used"),
        ("all_proxy", "http://u:secret@[::1", "all_proxy cannot be used"),
        ("ALL_PROXY", "socks://u:secret@x", r"ALL_PROXY names a SOCKS proxy: pip install 'httpx\[socks\]'"),
    ],
)
async def test_proxies_that_cannot_be_used(
    server: FaultServer, call: Call, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    """The error names the variable, and shows no password."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(variable, value)
    with remote(server) as embedder, pytest.raises(ConfigurationError, match=words) as raised:
        await call(embedder, "embed", ["a"])
    assert "secret" not in str(raised.value)
    assert not server.requests
