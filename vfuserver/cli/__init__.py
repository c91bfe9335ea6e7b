"""The command line, `vfuserver`. One file per sub-command; a file whose name starts with _ is a helper.

A command is a module (or package) of this folder with a click command named `command`; it is found by walking the
folder, so a new command is one new file. Its function returns the exit code, or None for 0. Everything heavy
(construct, uvloop, asyncio, the registries) is imported inside functions: `vfuserver --help` must be quick.
This module must not know any command.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `vfuserver ARGUMENTS` (default: the process's own) and exits with its code."""
    from vfuserver.cli._failures import Settings, run
    from vfuserver.cli._root import root

    sys.exit(run(root, arguments, Settings()))
