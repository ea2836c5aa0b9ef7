"""What README shows is run: every block of Python, and the commands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
BASH = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def desk(samples: Path, tmp_path: Path) -> Path:
    """A folder with `pdfs/` in it, as README assumes."""
    shutil.copytree(samples, tmp_path / "pdfs")
    return tmp_path


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.splitlines()[0])
def test_python_blocks_run(code: str, desk: Path) -> None:
    """Each block runs by itself in a fresh process, prints something, and finds the right page."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=desk, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    if "leave do I get" in code:
        assert "page 3" in done.stdout
    assert done.stdout


def test_commands_run(desk: Path) -> None:
    """The commands of the quick start work as printed."""
    assert BASH
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for line in BASH[0].splitlines():
        done = subprocess.run(
            line, shell=True, cwd=desk, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode in {0, 3}, done.stderr
    assert "staff-handbook.pdf  page 3 of 5" in done.stdout
    assert (desk / "answers.html").stat().st_size > 10_000


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md"])
def test_links_lead_somewhere(file: str) -> None:
    """Every file that a document links to, or names in backticks with its folder, is there."""
    text = (ROOT / file).read_text()
    names = re.findall(r"\]\((?!http|#)([^)#]+)", text) + re.findall(
        r"`((?:scripts|benchmarks|tests|backend|examples)/[\w/.]+)`", text
    )
    base = (ROOT / file).parent
    assert not [name for name in names if not ((base / name).exists() or (ROOT / name).exists())]


def test_the_model_table_is_the_catalogue() -> None:
    """README lists every model of the catalogue with its dimension."""
    from nemovlm.models.catalogue import CATALOGUE

    for card in CATALOGUE:
        row = next(line for line in README.splitlines() if line.startswith(f"| `{card.id}`"))
        assert f" {card.dimension} " in row
        assert ("image" in row) == ("image" in card.modalities)
