"""`vfuserver completion`: the shell's completion script, which is click's. It must not know any command."""

import click

SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print a completion script.")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the script that completes vfuserver's commands, devices and options in SHELL.

    \b
    Examples:
      vfuserver completion bash > ~/.local/share/bash-completion/completions/vfuserver
      vfuserver completion fish > ~/.config/fish/completions/vfuserver.fish
    """
    from click.shell_completion import get_completion_class

    from vfuserver.cli._root import root

    found = get_completion_class(shell)
    assert found is not None, f"click knows no {shell}"
    click.echo(found(root, {}, "vfuserver", "_VFUSERVER_COMPLETE").source())
