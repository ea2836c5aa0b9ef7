"""The command line for tests: as a process of its own, or in this process, which is 10 seconds of imports quicker."""

import gc
import os
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

COMMAND = [str(Path(sys.executable).parent / "nemovlm")]


def nemovlm(*arguments: object, code: int = 0, cwd: Path | None = None, **environment: str) -> tuple[str, str]:
    """Run the command; return what it printed and what it said."""
    done = subprocess.run(  # noqa: PLW1510 - the code is checked below
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


def nemovlm_here(*arguments: object, code: int = 0, cwd: Path | None = None, **environment: str) -> tuple[str, str]:
    """Do the same in this process; an exception that the command does not turn into a message is raised."""
    from typer.testing import CliRunner

    from nemovlm.cli.app import app

    with chdir(cwd or Path.cwd()):
        done = CliRunner().invoke(app, [*map(str, arguments)], prog_name="nemovlm", env=environment)
    gc.unfreeze()  # a command leaves this to the end of its process
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.stdout + done.stderr
    return done.stdout, done.stderr
