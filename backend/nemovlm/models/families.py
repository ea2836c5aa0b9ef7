"""The families of models that run here: a new one is a line of `FAMILIES`."""

from collections.abc import Mapping
from typing import Any

from nemovlm.errors import CheckpointError
from nemovlm.models import llama_nemotron
from nemovlm.models.base import Family

FAMILIES: tuple[Family, ...] = (llama_nemotron,)


def family_of(architecture: str | None) -> Family:
    """Return the family of an architecture. A model that only its server knows is taken for one of the first."""
    return next((family for family in FAMILIES if architecture in family.architectures), FAMILIES[0])


def architecture_of(config: Mapping[str, Any]) -> str:
    """Return the architecture that a `config.json` names.

    Raises:
        CheckpointError: It names none that runs here.
    """
    names = config.get("architectures") or ["none"]
    names = names if isinstance(names, list) else [names]
    known = [architecture for family in FAMILIES for architecture in family.architectures]
    if not (found := next((architecture for architecture in known if architecture in names), None)):
        raise CheckpointError(f"the checkpoint's architecture is {names[0]}; this package runs {' and '.join(known)}")
    return found


def register_with_vllm() -> None:
    """Make the configurations of all families known, in each of vLLM's processes.

    It is this package's entry point in the group `vllm.general_plugins`.
    """
    for family in FAMILIES:
        family.register_with_vllm()
