"""The hub, played by a server on loopback that speaks as much of its protocol as the real client asks for."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from nemovlm import Embedder
from tests.support.checkpoints import write_vl_checkpoint

REVISION = "0123456789abcdef0123456789abcdef01234567"


# A row of the catalogue for a model on the hub that is as small as the tests' own.
LOADING = f"""
import json
from dataclasses import replace
from nemovlm import Embedder
from nemovlm.models import catalogue, checkpoint
from nemovlm.models.tiling import Tiling
row = replace(catalogue.CATALOGUE[0], id="test/tiny", dimension=128, revision={REVISION!r}, vision=Tiling(64, 16))
checkpoint.find_card = lambda model: row if model == row.id else None
embedder = Embedder("test/tiny")
print(json.dumps([embedder.embed_query("x").tolist(), embedder.space]))
"""


class Hub(BaseHTTPRequestHandler):
    """Lists the files of one repository at one revision, and gives them out."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        files = sorted(self.folder.iterdir())
        if path == f"/api/models/test/tiny/revision/{REVISION}":
            siblings = [{"rfilename": file.name} for file in files]
            data = json.dumps({"id": "test/tiny", "sha": REVISION, "siblings": siblings}).encode()
        elif path == f"/api/models/test/tiny/tree/{REVISION}":
            tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]
            data = json.dumps(tree).encode()
        else:
            file = self.folder / path.rpartition("/")[2]
            if not (path.startswith(f"/test/tiny/resolve/{REVISION}/") and file.exists()):
                self.send_error(404)
                return
            data = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hash(data):x}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    folder = write_vl_checkpoint(tmp_path / "repository")
    (folder / "modeling_evil.py").write_text("raise SystemExit('code from the hub ran')")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    handler = type("Handler", (Hub,), {"folder": folder, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def load(hub: ThreadingHTTPServer, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Load the model in a process whose hub is the server, and whose cache is `home`."""
    own = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return subprocess.run(
        [sys.executable, "-c", LOADING],
        env={
            **own,
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_model_is_fetched_at_its_pinned_revision(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    """JSON and safetensors come over, code and pickles are not even asked for, and the vectors are the folder's."""
    done = load(hub, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    vector, space = json.loads(done.stdout)
    handler: type[Hub] = hub.RequestHandlerClass  # type: ignore[assignment] # it is one
    assert any(path.endswith("model.safetensors") for path in handler.asked)
    assert not [path for path in handler.asked if path.endswith((".py", ".bin"))]
    assert not [path for path in handler.asked if REVISION not in path]
    assert space == f"test/tiny@{REVISION[:12]};dimensions=128;tiles=6;prompts=1"
    with Embedder(handler.folder) as embedder:
        assert np.abs(np.array(vector) - embedder.embed_query("x")).max() <= 1e-6


def test_a_fetched_model_needs_no_network(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    """The second time it comes from the cache, with the hub out of reach."""
    first = load(hub, tmp_path / "home")
    again = load(hub, tmp_path / "home", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout


def test_a_hub_out_of_reach(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    """Without a network and without a cache, one error says what was wanted and what to do."""
    done = load(hub, tmp_path / "home", HF_HUB_OFFLINE="1")
    last = done.stderr.strip().splitlines()[-1]
    assert f"CheckpointError: test/tiny at revision {REVISION} could not be downloaded" in last
    assert "or pass the folder of a copy" in last
