"""The files of a checkpoint. Nothing but JSON and safetensors is ever opened, so no code of a repository can run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nemovlm.errors import CheckpointError, one_line

_WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return a JSON file of a checkpoint; an absent `processor_config.json` counts as empty.

    Raises:
        CheckpointError: The file is missing, cannot be read, or holds no JSON object.
    """
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if name == "processor_config.json":
            return {}
        raise CheckpointError(f"{folder} has no {name}: it is no checkpoint folder") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / name} cannot be read ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{folder / name} must hold a JSON object")
    return content


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint.

    Raises:
        CheckpointError: One is missing.
    """
    if (folder / _WEIGHTS_INDEX).exists():
        try:
            names = sorted(
                {folder.joinpath(name).name for name in read_json(folder, _WEIGHTS_INDEX)["weight_map"].values()}
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder / _WEIGHTS_INDEX} maps no weights to files") from error
    else:
        names = [_WEIGHTS]
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no weights: {name} is missing")
    return [folder / name for name in names]


@contextmanager
def config_errors(folder: Path) -> Iterator[None]:
    """Turn a missing or malformed field of `config.json` into a `CheckpointError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is incomplete: {error} is missing or unusable") from error
