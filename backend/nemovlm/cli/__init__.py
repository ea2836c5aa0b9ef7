"""The door of the command line. What is behind it needs the `[cli]` extra; this says so where it is missing."""

import os
import sys
from io import TextIOWrapper

from nemovlm.cli.startup import importing
from nemovlm.errors import MissingExtraError


def main() -> None:
    """Run the `nemovlm` command."""
    _make_printable()
    try:
        with importing():
            from nemovlm.cli.app import app
    except MissingExtraError as error:
        sys.exit(f"error: {error}")
    app(prog_name="nemovlm")


def _make_printable() -> None:
    """Let what is printed hold any text: what its encoding has not is escaped. What is read may be no text, too.

    A stream that was closed leads nowhere from here on, or the next file to be opened would get its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace" if mode == "w" else "replace")
