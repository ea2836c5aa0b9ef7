"""How tests run a real vLLM, small and quick to start, and see to it that nothing of it is left."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.checkpoints import write_vl_checkpoint

OPTIONS = {"enforce_eager": True, "gpu_memory_utilization": 0.05}
"""What is right for a tiny model beside others: a share of the memory that is free, and nothing compiled."""

os.environ["VLLM_HOST_IP"] = "127.0.0.1"  # for vLLM's processes: their own address without asking the network for it


def children(pid: int | None = None) -> set[psutil.Process]:
    """Return what a process (this one) has started, but for Python's tracker of resources, which ends with it."""
    found = psutil.Process(pid).children(recursive=True)
    return {child for child in found if "resource_tracker" not in " ".join(child.cmdline())}


@contextmanager
def nothing_left() -> Iterator[set[psutil.Process]]:
    """After the block, what this process started in it, and what was put into the set, must be gone.

    So must shared memory that nobody uses any more. A process that is gone has no open ports.
    """
    mine, before = children(), _unused_memory()
    more: set[psutil.Process] = set()
    yield more
    _, alive = psutil.wait_procs([*(children() - mine), *more], timeout=60)
    assert not alive
    assert _unused_memory() <= before


def _unused_memory() -> set[str]:
    used = set()
    for pid in psutil.pids():
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
            used |= {line.partition("/dev/shm/")[2].partition(" ")[0] for line in lines}
    return set(os.listdir("/dev/shm")) - used


def write_untrusted_checkpoint(folder: Path) -> Path:
    """Write the tiny checkpoint with vision, with code beside it that leaves a trace, `code-was-run`, if it is run."""
    write_vl_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_trap.TrapConfig", "AutoModel": "configuration_trap.TrapModel"}
    (folder / "config.json").write_text(json.dumps(config))
    trace = folder / "code-was-run"
    (folder / "configuration_trap.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    prefixes = {"prompts": {"query": "query: ", "document": "passage: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prefixes))  # for vLLM's route /v2/embed
    return folder
