"""Starts vLLM's own OpenAI server for a model of ours, and ends it: what `nemovlm serve --vllm-server` runs.

The server is another program, with the prompts, the tiles and the pooling that the model was trained with, in a process
group of its own, so that nothing it started outlives it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nemovlm.engines.local.vllm_arguments import ENVIRONMENT, engine_arguments, refuse_fixed
from nemovlm.errors import CheckpointError, EngineError, MissingExtraError
from nemovlm.models.checkpoint import Checkpoint
from nemovlm.models.families import family_of
from nemovlm.models.files import read_json
from nemovlm.server.sockets import bind_socket, url
from nemovlm.settings import Settings

# What the server is given besides, and what must not be given again behind it.
_OURS = {
    "served_model_name": "option --served-model-name",
    "host": "option --host",
    "port": "option --port",
    "api_key": "option --api-key, or NEMOVLM_SERVER_API_KEY",
    "chat_template": None,
    "media_io_kwargs": None,
}
_STOPS = (signal.SIGINT, signal.SIGTERM)
_POLL_SECONDS = 0.2
_MODULE = "vllm.entrypoints.openai.api_server"  # the `vllm` command does not start where vLLM is a CPU build


@dataclass(frozen=True)
class Launch:
    """Where and how a server is to run."""

    host: str
    """The address to listen at."""
    port: int
    """The port to listen at; 0 for one that is free."""
    names: tuple[str, ...]
    """What clients call the model. Empty: its id."""
    api_key: str | None
    """The key that clients must have. None: no key is wanted."""
    flags: tuple[str, ...]
    """More flags of vLLM's."""
    grace: float
    """Seconds that it may take to end."""


def command_line(checkpoint: Checkpoint, folder: Path, settings: Settings, launch: Launch, device: str) -> list[str]:
    """Return the command that starts the server.

    Args:
        checkpoint: The model.
        folder: Where its files lie.
        settings: Of them `engine_options` are more flags.
        launch: Where and how the server runs.
        device: `cuda` or `cpu`.

    Raises:
        ConfigurationError: A flag, or an engine option, is not the user's to choose.
    """
    refuse_fixed(settings.engine_options or {}, "engine_options", _OURS)
    refuse_fixed(map(_name, launch.flags), "the flags behind --", _OURS)
    arguments = engine_arguments(str(folder), checkpoint.card, settings, device, whole_images=True)
    arguments |= {
        "served_model_name": launch.names or (checkpoint.card.id,),
        "chat_template": family_of(checkpoint.card.architecture).chat_template,
        "allowed_media_domains": ("none.invalid",),  # so none: images come as data URLs
        "media_io_kwargs": {"image": {"rgba_background_color": [255, 255, 255]}},  # as everywhere here
        "host": launch.host,
        "port": launch.port,
    }
    arguments |= settings.engine_options or {}
    return [sys.executable, "-m", _MODULE, *_flags(arguments), *launch.flags]


def serve(checkpoint: Checkpoint, settings: Settings, launch: Launch, announce: Callable[[str, bool], None]) -> None:
    """Run the server until SIGINT or SIGTERM. Blocks, in the main thread.

    Args:
        checkpoint: The model, which is fetched if it is not here.
        settings: Those that vLLM's engine takes.
        launch: Where and how the server runs.
        announce: Called once the server answers, with its address, and whether its route `/v2/embed` takes an
            `input_type`.

    Raises:
        MissingExtraError: vLLM is not installed.
        ConfigurationError: The address cannot be taken, or a flag is not the user's to choose.
        CheckpointError: The model cannot be fetched, or is not as it should be.
        EngineError: The server ended by itself.
        KeyboardInterrupt: SIGINT came; all that was started has ended.
    """
    if not find_spec("vllm"):
        raise MissingExtraError("vLLM's server", "vllm")
    from nemovlm.engines.local.devices import cuda_available

    with bind_socket(launch.host, launch.port) as listener:  # vLLM itself would find out half a minute later
        port, address = listener.getsockname()[1], url(launch.host, listener)
    folder = checkpoint.fetch()
    family = family_of(checkpoint.card.architecture)
    family.check(folder, checkpoint.card)
    family.check_weights(folder)
    launch = replace(launch, port=port)
    command = command_line(checkpoint, folder, settings, launch, "cuda" if cuda_available() else "cpu")
    asked: list[int] = []
    before = {number: signal.signal(number, lambda got, _: asked.append(got)) for number in _STOPS}
    # Standard output is for results: the server's log goes where all else is said.
    server = subprocess.Popen(command, stdout=2, env=_environment(launch.api_key), start_new_session=True)  # noqa: S603
    try:
        ready = False
        while server.poll() is None and not asked:
            if not ready and (ready := _healthy(launch.host, port)):
                announce(address, _has_prefixes(folder))
            time.sleep(_POLL_SECONDS)
    finally:
        _end(server, launch.grace)
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGINT in asked:
        raise KeyboardInterrupt
    if not asked:
        when = "ended" if ready else "could not start"
        raise EngineError(f"vLLM's server {when} (exit code {server.returncode}), its log above says why")


def _has_prefixes(folder: Path) -> bool:
    """Return whether vLLM finds prefixes in a checkpoint, for the `input_type` of its route `/v2/embed`."""
    with suppress(CheckpointError):
        if read_json(folder, "config.json").get("task_instructions"):
            return True
        return bool(read_json(folder, "config_sentence_transformers.json").get("prompts"))
    return False


def _name(flag: str) -> str:
    """Return the option that a flag sets, as `engine_options` has it: `--a-b=1` and `--a-b.c=1` set a_b."""
    name = flag.removeprefix("--").partition("=")[0].partition(".")[0].replace("-", "_")
    return name.removeprefix("no_") if flag.startswith("--") else ""


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    flags = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, (list, tuple)):
            flags += [f"--{flag}", *map(str, value)]
        else:
            flags += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return flags


def _environment(api_key: str | None) -> dict[str, str]:
    """Return what the server finds: a key must not stand in a command line, where others on the machine can read it."""
    ours = ENVIRONMENT | os.environ
    return ours | {"VLLM_API_KEY": api_key} if api_key else ours


def _healthy(host: str, port: int) -> bool:
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - asked, not listened on
    connection = HTTPConnection(here, port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _end(server: "subprocess.Popen[bytes]", grace: float) -> None:
    """End the server, and then whatever is left of its process group."""
    if server.poll() is None:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(grace)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
