"""Benchmarks run to their end at a small size, that of a GPU where there is none: all that is in them works."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object) -> str:
    """Run a benchmark, and return what it prints."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], check=False, cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_benchmark_of_a_gpu_runs_without_one() -> None:
    """Every part prints its table, and the module of before has the vectors of ours."""
    command = ["benchmarks/gpu.py", "--small", "--device", "cpu", "--pages", "2", "--texts", "4", "--rounds", "1"]
    said = run(*command)
    for title in ("The card", "Loading", "Preparing and computing apart", "Engines", "From PDF to row", "Queries"):
        assert f"### {title}" in said
    table = said.partition("### Engines")[2].partition("\n\n(")[0]
    cosines = [float(row.rstrip(" |").rpartition("| ")[2]) for row in table.splitlines()[4:]]
    assert len(cosines) == 5
    assert min(cosines) > 0.99999


def test_the_benchmark_of_a_large_index_runs() -> None:
    """It finds what comparing all pages finds, and says what each search took."""
    said = run("benchmarks/index_scale.py", "--pages", "600", "--dimensions", "64", "--rounds", "1", "--beside", "50")
    assert "### 600 pages, 64 numbers each, float32" in said
    assert "| 1.000 |" in next(row for row in said.splitlines() if row.startswith("| vector |"))
    assert "| hybrid, one page in a hundred |" in said


def test_the_benchmark_of_retrieval_runs(vl_folder: Path, pdfs: Path, tmp_path: Path) -> None:
    """Both of its tables are there; words find the page, and vectors in full are the same as themselves."""
    asked = [{"question": "How many days of annual leave?", "truth": "Page 4 [staff-handbook.pdf#page=4] says it"}]
    truth = tmp_path / "truth.jsonl"
    truth.write_text("\n".join(map(json.dumps, asked)))
    said = run("benchmarks/retrieval.py", "--pdfs", pdfs, "--truth", truth, "--model", vl_folder)
    assert "| 1, truth.jsonl | text | words | 1.000 | 1.000 | 1.000 | 1.000 |" in said
    assert "| 128 | float32 | " in said
    assert next(row for row in said.splitlines() if row.startswith("| 128 | float32")).endswith(" 1.000 |")
    assert "| 32 | int8 | " in said
