"""The commands: `nemovlm index | delete | search | embed | serve | models | doctor | parity`.

Results go to standard output, everything said about them to standard error. Exit codes: 0 done; 1 an error, in
one line; 2 wrong usage; 3 done, but some documents or pages were left out; 130 stopped by Ctrl-C.
"""

# The console comes first, because it says which extra is missing; then the commands, in the order of --help.
# isort: off
from nemovlm.cli.console import app
from nemovlm.cli import index, search, embed, serve, inspect  # noqa: F401 - each registers its commands

__all__ = ["app"]
