"""Where torch computes, and in what. Imports torch, and nothing that takes longer."""

import torch

from nemovlm.errors import EngineUnavailableError
from nemovlm.settings import DtypeName


def cuda_available() -> bool:
    """Return whether torch can compute on an NVIDIA GPU here."""
    return torch.cuda.is_available()


def pick_device(wanted: str) -> str:
    """Return the device to compute on: `wanted`, or for `auto` the best there is.

    Raises:
        EngineUnavailableError: It is not here.
    """
    usable = {"cuda": cuda_available(), "mps": torch.backends.mps.is_available(), "cpu": True}  # the best first
    if wanted == "auto":
        return next(name for name, there in usable.items() if there)
    if not usable.get(wanted.partition(":")[0]):
        have = ", ".join(name for name in sorted(usable) if usable[name])
        raise EngineUnavailableError(f"there is no device {wanted!r} here; torch offers: {have}")
    return wanted


def pick_dtype(wanted: DtypeName, device: str) -> str:
    """Return what to compute in on `device`: `wanted`, or for `auto` bfloat16 where a GPU has it, else float32."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "float32"
