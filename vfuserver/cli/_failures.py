"""What a command's end means to whoever called it: exit codes and the one line on stderr.

0 done; 1 it failed; 2 it was asked for wrongly; 130 Ctrl-C. It must not know any command.
"""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import click

from vfuserver.errors import UsageError, VfuserverError

FAILURE, USAGE, INTERRUPTED = 1, 2, 130


@dataclass(slots=True)
class Settings:
    """What applies to every command: `debug` shows tracebacks of expected errors too."""

    debug: bool = False


def run(root: click.Command, arguments: Sequence[str] | None, settings: Settings) -> int:
    """Runs the command line; what went wrong is on stderr, what it means is the result."""
    try:
        code = root.main(args=arguments, prog_name="vfuserver", standalone_mode=False, obj=settings)
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        return _misused(error)
    except VfuserverError as error:
        if settings.debug:
            traceback.print_exc()
        complain(str(error))
        return USAGE if isinstance(error, UsageError) else FAILURE
    return code if isinstance(code, int) else 0


def complain(text: str) -> None:
    """An error, on stderr."""
    click.echo(f"vfuserver: error: {text}", err=True)


def _misused(error: click.ClickException) -> int:
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        click.echo(context.get_usage(), err=True)
        click.echo(f"Try `{context.command_path} --help`.", err=True)
    complain(error.format_message())
    return error.exit_code
