"""The benchmark of a GPU runs to its end at a small size, where there is none: all that is in it works."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_benchmark_of_a_gpu_runs_without_one() -> None:
    """Every part prints its table, and the module of before has the vectors of ours."""
    command = ["benchmarks/gpu.py", "--small", "--device", "cpu", "--pages", "2", "--texts", "4", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, *command], check=False, cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    for title in ("The card", "Loading", "Preparing and computing apart", "Engines", "From PDF to row", "Queries"):
        assert f"### {title}" in done.stdout
    table = done.stdout.partition("### Engines")[2].partition("\n\n(")[0]
    cosines = [float(row.rstrip(" |").rpartition("| ")[2]) for row in table.splitlines()[4:]]
    assert len(cosines) == 5
    assert min(cosines) > 0.99999
