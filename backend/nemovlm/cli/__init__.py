"""The door of the command line. What is behind it needs the `[cli]` extra; this says so where it is missing."""

import io
import sys

from nemovlm.errors import MissingExtraError


def main() -> None:
    """Run the `nemovlm` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal or pipe cannot show is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        from nemovlm.cli.app import app
    except MissingExtraError as error:
        sys.exit(f"error: {error}")
    app(prog_name="nemovlm")
