"""The door of the command line. What is behind it needs the `[cli]` extra; this says so where it is missing."""

import sys

from nemovlm.errors import MissingExtraError


def main() -> None:
    """Run the `nemovlm` command."""
    try:
        from nemovlm import commands
    except MissingExtraError as error:
        sys.exit(f"error: {error}")
    commands.app(prog_name="nemovlm")
