"""The door of the command line. What is behind it needs the `[cli]` extra; this says so where it is missing."""

import sys

from nemovlm.errors import MissingExtraError


def main() -> None:
    """Run the `nemovlm` command."""
    try:
        from nemovlm.cli.app import app
    except MissingExtraError as error:
        sys.exit(f"error: {error}")
    app(prog_name="nemovlm")
