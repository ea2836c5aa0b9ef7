"""What vLLM's processes run instead of the user's script: they end when the process that started them does.

A process that is started afresh ("spawn") first runs the main script again, for the functions that it may define. vLLM
needs none of them, and a script without `if __name__ == "__main__"` would start a second engine there, without end.
This module takes its place, in the processes of our engine and in those that they start in turn. vLLM's own would
outlive a parent that was killed, and keep the GPU.
"""

import multiprocessing.spawn
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_POLL_SECONDS = 1.0
GRACE_SECONDS = 30.0
"""How long a process that was told to end may take, until it is killed."""


@contextmanager
def with_parent_watchdog() -> Iterator[None]:
    """Let the processes that this thread starts run this module first, and not the user's script."""
    mine, original = threading.get_ident(), multiprocessing.spawn.get_preparation_data

    def preparation(name: str) -> dict[str, Any]:
        data: dict[str, Any] = original(name)
        if threading.get_ident() == mine:
            data.pop("init_main_from_path", None)
            data["init_main_from_name"] = __name__
        return data

    multiprocessing.spawn.get_preparation_data = preparation
    try:
        yield
    finally:
        multiprocessing.spawn.get_preparation_data = original


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


if __name__ == "__mp_main__":
    threading.Thread(target=_exit_with_parent, args=[os.getppid()], name="nemovlm-watchdog", daemon=True).start()
