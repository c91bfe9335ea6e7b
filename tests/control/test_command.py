"""Commands of the control socket: found by walking the folder, told apart by name."""

import pytest

from vfuserver.control.command import CONTROL_COMMANDS, ControlCommand
from vfuserver.engine import Server
from vfuserver.errors import DeclarationError


def test_every_command_says_what_it_does_and_is_named_as_its_file() -> None:
    names = [command.name for command in CONTROL_COMMANDS.all()]
    assert names == sorted(names)
    assert {"areas", "inspect"} <= set(names)
    for command in CONTROL_COMMANDS.all():
        assert command.__doc__
        assert command.__module__ == f"vfuserver.control.commands.{command.name}"


def test_a_name_that_is_taken_is_a_declaration_error() -> None:
    with pytest.raises(DeclarationError, match=r"name of a control command must be its own, not inspect of .*Inspect"):

        class Twice(ControlCommand, name="inspect"):
            """Never registered."""

            async def run(self, server: Server) -> None:
                """Never called."""
