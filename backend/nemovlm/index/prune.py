"""Which documents of an index are gone from the folders that they were in."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from nemovlm.paths import lasting_path, local_path, path_of, readable_name


def gone(documents: Iterable[str], sources: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return the documents below those of the sources that are folders, whose files are there no more.

    What cannot be looked at, as in a folder that may not be read, is not gone; nor is what lay below a folder that is
    itself not there, since that may be a disk that is not mounted.
    """
    folders = [Path(readable_name(lasting_path(folder))) for folder in map(local_path, sources) if folder.is_dir()]
    below = [name for name in documents if any(folder in Path(name).parents for folder in folders)]
    return [name for name in below if _is_gone(path_of(name))]


def _is_gone(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
