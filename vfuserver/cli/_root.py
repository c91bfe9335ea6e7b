"""The command `vfuserver` itself: finds its sub-commands in this folder, imports one when it is named.

It must not know any of them.
"""

import pkgutil
from importlib import import_module

import click

import vfuserver.cli
from vfuserver.cli._failures import USAGE, Settings


class Found(click.Group):
    """A group whose commands are the modules of `vfuserver.cli`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every module that is no helper; qemu_args is qemu-args."""
        names = (module.name for module in pkgutil.iter_modules(vfuserver.cli.__path__))
        return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The module's `command`."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command = import_module(f"vfuserver.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"vfuserver {vfuserver.__version__}")
        ctx.exit()


@click.group(
    cls=Found,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print it.")
@click.option("--debug", is_flag=True, help="Show the traceback of every error.")
@click.pass_context
def root(ctx: click.Context, debug: bool) -> int | None:
    """PCI devices in Python, outside QEMU, served over vfio-user.

    DEVICE is a name that `vfuserver list` shows, path/to/file.py:Class, or package.module:Class.

    \b
    Examples:
      vfuserver demo                                    a Linux guest that uses three devices
      vfuserver run edu                                 a guest's shell with the device in it
      vfuserver serve edu --socket /tmp/edu.sock        the device for a QEMU of your own
      vfuserver qemu-args edu /tmp/edu.sock             what that QEMU is told

    Exit codes: 0 done, 1 failed, 2 asked for wrongly, 130 interrupted by Ctrl-C.
    """
    ctx.ensure_object(Settings).debug = debug
    if ctx.invoked_subcommand is not None:
        return None
    click.echo(ctx.get_help(), err=True)
    return USAGE
