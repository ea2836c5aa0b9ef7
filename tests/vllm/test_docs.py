"""What docs/vllm.md shows is run."""

import re
import subprocess
import sys
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "vllm.md").read_text()


def test_the_block_runs() -> None:
    """It prints similarities, and the error of the item that is none."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    closed, baked = map(float, first.strip("[]").split())
    assert closed > baked
    assert second.startswith("[True, False, True] item 1: ")
