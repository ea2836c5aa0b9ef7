"""The weights of a checkpoint, into the torch modules: every one of them, and no others.

They are read from the file part by part and converted on the way to their places, so that no second copy is ever held.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nemovlm.errors import CheckpointError
from nemovlm.models.files import read_json, weight_files
from nemovlm.models.llama_nemotron.cards import VISION
from nemovlm.models.llama_nemotron.layers import FusedLinear, trim
from nemovlm.models.llama_nemotron.layout import canonical_names
from nemovlm.models.llama_nemotron.module import LlamaBidirectionalModel, LlamaNemotronVLModel
from nemovlm.models.llama_nemotron.siglip import PatchLinear

# So many bytes of a file are read before it is closed and opened again: what was read is mapped into memory, and counts
# there until then.
_READ_BYTES = 2**24


def load_model(folder: Path, *, device: str, dtype: torch.dtype) -> LlamaBidirectionalModel:
    """Build the module that the checkpoint in `folder` describes, with its weights, ready to run.

    Raises:
        CheckpointError: Like `check_weights`.
    """
    model, names = _matched(folder)
    _give_memory(model.eval(), device, dtype)
    slots = _slots(model)
    for path, targets in names.items():
        for name, weight in _read(path, targets):
            slots[targets[name]].copy_(weight)
    trim(model)
    return model


def check_weights(folder: Path) -> None:
    """Check that all weights are there, of the right shape, and no others.

    Raises:
        CheckpointError: Naming every weight that is missing, left over or of another shape.
    """
    _matched(folder)


def _give_memory(model: nn.Module, device: str, dtype: torch.dtype) -> None:
    """Do what `to_empty` does, without the symbolic algebra that torch loads for that."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            empty = torch.empty(weight.shape, dtype=dtype, device=device)
            module.register_parameter(name, nn.Parameter(empty, requires_grad=False))


def _slots(model: nn.Module) -> dict[str, Tensor]:
    """Return {name in checkpoints: the tensor that takes the weight}, which may be a part of a parameter."""
    slots: dict[str, Tensor] = {}
    for place, module in model.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            if isinstance(module, FusedLinear):
                parent = place.rpartition(".")[0]
                parts = weight.detach().split(list(module.parts.values()))
                slots |= {f"{parent}.{part}.{name}": rows for part, rows in zip(module.parts, parts, strict=True)}
            elif isinstance(module, PatchLinear) and name == "weight":
                slots[f"{place}.{name}"] = weight.detach().view(module.kernel)
            else:
                slots[f"{place}.{name}"] = weight.detach()
    return slots


def _unread(model: nn.Module) -> set[str]:
    """Return the names of weights that may stand in checkpoints, and that the modules do not need."""
    return {
        f"{place}.{part}.{kind}"
        for place, module in model.named_modules()
        for part in getattr(module, "unread", ())
        for kind in ("weight", "bias")
    }


def _matched(folder: Path) -> tuple[LlamaBidirectionalModel, dict[Path, dict[str, str]]]:
    """Return the module without weights, and for each file {name in the file: name among the slots}."""
    config = read_json(folder, "config.json")
    kind = LlamaNemotronVLModel if VISION in config["architectures"] else LlamaBidirectionalModel
    try:
        with torch.device("meta"):  # no memory and no random numbers for weights that are replaced later
            model = kind(config)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is unusable: {error}") from error
    expected = {name: list(slot.shape) for name, slot in _slots(model).items()}
    unread = _unread(model)
    prefix = "" if kind is LlamaNemotronVLModel else "language_model."
    found: dict[Path, dict[str, str]] = {}
    unknown: list[str] = []
    misshapen: dict[str, str] = {}
    for path in weight_files(folder):
        found[path] = {}
        with _open(path) as file:
            for name, canonical in canonical_names(file.keys()).items():
                target = prefix + canonical
                if target in unread:
                    continue
                if target not in expected:
                    unknown.append(name)
                elif (shape := list(file.get_slice(name).get_shape())) != expected[target]:
                    misshapen[target] = f"{name} is {shape} instead of {expected[target]}"
                else:
                    found[path][name] = target
    there = {target for targets in found.values() for target in targets.values()}
    missing = [name.removeprefix(prefix) for name in expected if name not in there and name not in misshapen]
    complaints = {
        "weights of another shape than config.json says": list(misshapen.values()),
        "weights are missing": missing,
        "weights that the model does not have": unknown,
    }
    if any(complaints.values()):
        raise CheckpointError(
            f"{folder} does not fit: " + "; ".join(f"{what}: {_some(of)}" for what, of in complaints.items() if of)
        )
    return model, found


def _read(path: Path, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, weight) of a file; a weight is good until the next."""
    rest = deque(names)
    while rest:
        read = 0
        with _open(path) as file:
            while rest and read < _READ_BYTES:
                name = rest.popleft()
                weight = file.get_tensor(name)
                yield name, weight
                read += weight.nbytes


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or incomplete ({error}); fetch it again") from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
