"""Which engine is taken, and which model where nobody chose one, with the reason in words.

The rule: an explicit `base_url` means remote; without one a local engine is taken. An API key in the
environment alone never sends a document off the machine. That a server is no NIM, as it is taken for, turns out when it
is asked (`handle.py`).
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from nemovlm.engines.base import Engine, EngineClass, Placement
from nemovlm.errors import MissingExtraError
from nemovlm.models.catalogue import DEFAULT_MODEL, POCKET
from nemovlm.models.checkpoint import Checkpoint
from nemovlm.settings import EngineName, Settings

# The module and class of each engine, imported when it is chosen.
_ENGINES: dict[EngineName, tuple[str, str]] = {
    "vllm": ("nemovlm.engines.local.vllm", "VllmEngine"),
    "transformers": ("nemovlm.engines.local.transformers", "TransformersEngine"),
    "nim": ("nemovlm.engines.remote.nim", "NimEngine"),
    "vllm-server": ("nemovlm.engines.remote.vllm_server", "VllmServerEngine"),
}


@dataclass(frozen=True)
class Route:
    """Which engine, and why: `reason` reads on from "engine X because ..."."""

    engine: EngineName
    reason: str


def choose_engine(settings: Settings) -> Route:
    """Return the engine for `settings`.

    Raises:
        MissingExtraError: None can be had.
    """
    if settings.engine != "auto":
        return Route(settings.engine, "it was asked for")
    if settings.base_url:
        return Route("nim", "a base_url is set")
    if find_spec("vllm") and _has_cuda():
        return Route("vllm", "vLLM is installed and there is a CUDA GPU")
    if find_spec("torch") and find_spec("transformers"):
        return Route("transformers", "torch and transformers are installed, and no base_url is set")
    raise MissingExtraError("a local engine", "local")


def placement(route: Route, settings: Settings) -> Placement:
    """Return where the engine of `route` would compute, without making it.

    Raises:
        ConfigurationError: It cannot run here, or not with these settings.
    """
    return _engine_class(route).placement(settings)


def build_engine(route: Route, checkpoint: Checkpoint, settings: Settings) -> Engine:
    """Make the engine of `route`, not started yet.

    Raises:
        ConfigurationError: It cannot run here, or not with these settings.
    """
    return _engine_class(route)(checkpoint, settings)


def default_model(settings: Settings) -> tuple[str | None, str]:
    """Return the model to take where nobody chose one, and why. None: what the server has."""
    if any(address.hosted for address in settings.addresses):
        return DEFAULT_MODEL, "NVIDIA hosts it, and no model was chosen"
    if settings.remote:
        return None, "the server has it, and no model was chosen"
    if _has_cuda():
        return DEFAULT_MODEL, "there is a CUDA GPU"
    return POCKET, "no model was chosen, and there is no GPU and no base_url"


def _engine_class(route: Route) -> EngineClass:
    module, name = _ENGINES[route.engine]
    found: EngineClass = getattr(import_module(module), name)
    return found


def _has_cuda() -> bool:
    if not find_spec("torch"):
        return False
    from nemovlm.engines.local.devices import cuda_available

    return cuda_available()
