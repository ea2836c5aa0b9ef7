"""`nemovlm serve` as a process: how it ends, and what it says where it cannot begin."""

import re
import shutil
import signal
import threading
from pathlib import Path

import httpx
import pytest

from tests.support.command import nemovlm_here
from tests.support.servers import address_of, ready, started


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_what_was_accepted_is_finished(stop: signal.Signals, vl_folder: Path) -> None:
    """Told to stop, the server answers what it is computing, takes nothing more, and leaves."""
    texts = [f"text {number} " * 80 for number in range(150)]
    with started("--model", vl_folder, "--port", 0, "--api-key", "k") as process:
        address = ready(address_of(process))
        replies: list[httpx.Response] = []

        def ask() -> None:
            body = {"model": "tiny-vl", "input": texts, "input_type": "passage"}
            headers = {"Authorization": "Bearer k"}
            replies.append(httpx.post(f"{address}/v1/embeddings", json=body, headers=headers, timeout=120))

        asking = threading.Thread(target=ask)
        asking.start()
        while not re.search(r"^nemovlm_queue_items [1-9]", httpx.get(f"{address}/v1/metrics").text, re.MULTILINE):
            assert asking.is_alive()
        process.send_signal(stop)
        asking.join(120)
        said = process.communicate(timeout=60)[1]
    assert len(replies[0].json()["data"]) == len(texts)
    assert "Traceback" not in said
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/v1/health/live")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "{empty}"], "has no config.json: it is no checkpoint folder"),
        (["--model", "nemovlm/pocket", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1:"),
        (["--model", "nemovlm/pocket", "--engine", "vllm"], "pip install 'nemovlm[vllm]'"),
    ],
    ids=["folder", "host", "engine"],
)
def test_a_server_that_cannot_begin_says_why(arguments: list[str], message: str, tmp_path: Path) -> None:
    """One sentence and exit code 1, before the model is loaded."""
    _, said = nemovlm_here("serve", *(part.format(empty=tmp_path) for part in arguments), "--port", 0, code=1)
    assert message in said.rpartition("error: ")[2]


def test_a_server_whose_model_cannot_be_loaded_ends(vl_folder: Path, tmp_path: Path) -> None:
    """One sentence and exit code 1, where the model turns out to be unusable while the server runs already."""
    shutil.copytree(vl_folder, tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with started("--model", tmp_path / "broken", "--port", 0) as process:
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "model.safetensors" in said.rpartition("error: ")[2]
    assert "Traceback" not in said
