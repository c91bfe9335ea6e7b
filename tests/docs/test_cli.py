"""docs/cli.md: every command and option is mentioned, every option mentioned exists, and the examples work."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click

from tests.docs.blocks import ROOT, blocks, matches
from tests.docs.test_tutorial import run_commands
from vfuserver.cli._config import read_config
from vfuserver.cli._root import root
from vfuserver.session.quirks import QUIRKS

TEXT = (ROOT / "docs/cli.md").read_text()
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
ELSEWHERE = {"--help"}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its whole name, `guest show` among them."""
    context = click.Context(root, info_name="vfuserver")
    for name in root.list_commands(context):
        found = root.get_command(context, name)
        assert found is not None
        yield name, found
        if isinstance(found, click.Group):
            yield from ((f"{name} {sub}", command) for sub, command in found.commands.items())


def options(command: click.Command) -> set[str]:
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    return {option for parameter in shown for option in parameter.opts if option.startswith("--")}


def test_every_command_is_mentioned() -> None:
    for name, _ in commands():
        assert f"`{name}`" in TEXT or f"`vfuserver {name}`" in TEXT, name


def test_every_option_is_mentioned_where_its_command_is() -> None:
    for name, command in commands():
        section = TEXT.partition(f"\n## {name}\n")[2].partition("\n## ")[0] or TEXT
        for option in options(command):
            assert option in section, f"{name} {option}"


def test_every_option_mentioned_exists() -> None:
    known = options(root).union(*(options(command) for _, command in commands()), ELSEWHERE)
    assert set(OPTION.findall(TEXT)) <= known


def test_examples_work(workshop: Path) -> None:
    console = [block for block in blocks("docs/cli.md") if block.language == "console"]
    assert console
    for block in console:
        run_commands(block)


def test_configuration_file_is_one_that_is_accepted(workshop: Path) -> None:
    (block,) = (block for block in blocks("docs/cli.md") if block.language == "toml")
    (workshop / "devices.toml").write_text(block.text)
    process, wanted = read_config(workshop / "devices.toml", {})
    assert process == {"log_level": "warning"}
    assert [(one.device, one.suggest, one.socket_mode) for one in wanted] == [
        ("edu", True, 0o600),
        ("testdev", True, 0o660),
    ]
    assert tomllib.loads(block.text)["device"][0]["set"] == wanted[0].options


def test_outputs_are_compared_line_by_line() -> None:
    assert matches(("a", "...", "d "), ["a", "b", "c", "d"])
    assert not matches(("a", "d"), ["a", "b", "d"])
    assert not matches(("a",), ["a.b"])


def test_every_quirk_is_mentioned() -> None:
    assert [name for name in QUIRKS if f"--quirk {name}=" not in TEXT] == []
