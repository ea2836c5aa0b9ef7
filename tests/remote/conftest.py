"""These tests need sockets, on loopback alone: servers that fail in every way, our own, and other people's clients."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import FaultServer, failing


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxies the tester's environment has, no test uses them."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A server that speaks the protocol of a NIM and fails as it is told to."""
    with failing() as running:
        yield running


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority `ca.pem`, and certificates with their keys from it, such as `server.pem`.

    That of `expired.pem` is no more valid, and that of `elsewhere.pem` is for another host. The folder `authorities`
    has `ca.pem` as OpenSSL looks for it.
    """
    if not (openssl := shutil.which("openssl")):
        pytest.skip("certificates are made with openssl")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    steps = [f"req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority -addext keyUsage=keyCertSign"]
    (folder / "elsewhere").write_text("subjectAltName=DNS:elsewhere.test\nauthorityKeyIdentifier=keyid\n")
    names = ("server", "client", "expired", "elsewhere")
    for name in names:
        days, san = -1 if name == "expired" else 2, "elsewhere" if name == "elsewhere" else "san"
        steps += [
            f"req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}",
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.crt -days {days} "
            f"-extfile {san}",
        ]
    (folder / "authorities").mkdir()
    steps += ["x509 -in ca.pem -out authorities/ca.pem", "rehash authorities"]
    for step in steps:
        subprocess.run([openssl, *step.split()], cwd=folder, check=True, capture_output=True, timeout=60)
    for name in names:
        (folder / f"{name}.pem").write_bytes(
            (folder / f"{name}.crt").read_bytes() + (folder / f"{name}.key").read_bytes()
        )
    return folder
