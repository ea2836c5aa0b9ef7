"""`nemovlm serve --vllm-server` for tests: on a free port of loopback, and gone afterwards with all it started."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.support.real_vllm import OPTIONS

# The command line as people have it; but its chat template can be another.
_COMMAND = """
from pathlib import Path
from nemovlm.models import llama_nemotron
from nemovlm.server import vllm_launcher as launcher
from nemovlm.cli import main
llama_nemotron.chat_template = Path({template!r}) if {template!r} else llama_nemotron.chat_template
main()
"""


@dataclass
class Launched:
    """The command under way."""

    process: "subprocess.Popen[bytes]"
    address: str
    log: Path

    def ready(self) -> str:
        """Wait until the server answers; return its address."""
        deadline = time.monotonic() + 300
        while self.process.poll() is None and time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.address}/health").status_code == httpx.codes.OK:
                    return self.address
            time.sleep(0.2)
        raise RuntimeError(f"the server did not start: {self.log.read_text()[-3000:]}")

    def family(self) -> list[psutil.Process]:
        """All processes that were started."""
        return psutil.Process(self.process.pid).children(recursive=True)


@contextmanager
def launched(folder: Path, template: Path | None = None, **environment: str) -> Iterator[Launched]:
    """Run the command with the chat template that it has, or another; its server calls the model `tiny-vl`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = _COMMAND.format(template=str(template or ""))
    arguments = [
        "serve",
        "--vllm-server",
        "--model",
        str(folder),
        "--served-model-name",
        "tiny-vl",
        "--port",
        str(port),
    ]
    settings = {"NEMOVLM_DTYPE": "float32", "NEMOVLM_ENGINE_OPTIONS": json.dumps(OPTIONS)}
    log = folder.parent / f"server-{port}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=file, stderr=file, env=os.environ | settings | environment
        )
    server = Launched(process, f"http://127.0.0.1:{port}", log)
    try:
        yield server
    finally:
        family = server.family() if process.poll() is None else []
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(90)
        for member in (*family, process):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                member.kill()
        process.wait()
