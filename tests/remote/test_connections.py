"""TLS, client certificates and proxies."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from nemovlm.errors import ServerError
from tests.support.faults import FaultServer, failing
from tests.support.remote import TEXTS, Call, all_right, error_of, remote

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority `ca.pem`, and `server.pem` and `client.pem` (with their keys) from it."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("certificates are made with openssl")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    steps = [f"req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority -addext keyUsage=keyCertSign"]
    for name in ("server", "client"):
        steps += [
            f"req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}",
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.crt -days 2 -extfile san",
        ]
    for step in steps:
        subprocess.run([openssl, *step.split()], cwd=folder, check=True, capture_output=True, timeout=60)
    for name in ("server", "client"):
        (folder / f"{name}.pem").write_bytes(
            (folder / f"{name}.crt").read_bytes() + (folder / f"{name}.key").read_bytes()
        )
    return folder


@pytest.mark.parametrize("verify", ["ca", False])
async def test_tls(call: Call, certificates: Path, verify: str | bool) -> None:
    """`verify` names the authority to trust, or False for anybody."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem")
    with failing(tls=context) as server:
        with remote(server, verify=certificates / "ca.pem" if verify else False) as embedder:
            assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
        assert server.url.startswith("https://")


async def test_tls_of_an_unknown_authority(call: Call, certificates: Path) -> None:
    """It is not trusted by default; nothing is sent, and the error names the certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem")
    with failing(tls=context) as server:
        with remote(server, verify=True) as embedder:
            error = await error_of(call, embedder)
        assert isinstance(error, ServerError)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)
        assert not server.requests


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
