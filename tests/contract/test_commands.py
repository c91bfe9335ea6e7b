"""What holds for every command of the specification, whoever adds one: tests over the registry."""

import ast
import errno
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vfuserver.session.commands
from tests.session.harness import EVERYTHING, Wire
from tests.session.migrating import MigratingDevice
from tests.wire.strategies import plain, values
from vfuserver.session import COMMANDS, Command, Direction
from vfuserver.session.commands.version import Version
from vfuserver.session.render import render
from vfuserver.wire import NO_REPLY, Layout, LayoutError, command_message, reply_message

SPECIFIED = {
    1: "VERSION",
    2: "DMA_MAP",
    3: "DMA_UNMAP",
    4: "DEVICE_GET_INFO",
    5: "DEVICE_GET_REGION_INFO",
    6: "DEVICE_GET_REGION_IO_FDS",
    7: "DEVICE_GET_IRQ_INFO",
    8: "DEVICE_SET_IRQS",
    9: "REGION_READ",
    10: "REGION_WRITE",
    11: "DMA_READ",
    12: "DMA_WRITE",
    13: "DEVICE_RESET",
    14: "DIRTY_PAGES",
    15: "REGION_WRITE_MULTI",
    16: "DEVICE_FEATURE",
    17: "MIG_DATA_READ",
    18: "MIG_DATA_WRITE",
    19: "GET_PRECOPY_INFO",
}
"""The specification's table of commands, with the one that it has no more (14), typed by hand."""

EVERY = COMMANDS.all()
FROM_CLIENT = [command for command in EVERY if command.direction is Direction.TO_SERVER]
ANSWERED = [command for command in FROM_CLIENT if command.served or command.in_core]
AFTER_VERSION = [command for command in ANSWERED if command is not Version]
LAYOUTS = [
    pytest.param(layout, id=f"{command.name}-{end}")
    for command in EVERY
    for end, layout in (("request", command.request), ("reply", command.reply))
]


def each(commands: list[type[Command]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("command", commands, ids=lambda command: command.name)


@pytest.fixture
def device() -> Iterator[MigratingDevice]:
    backend = MigratingDevice()
    yield backend
    backend.close()


@pytest.fixture
def wire(device: MigratingDevice) -> Iterator[Wire]:
    wire = Wire(device, EVERYTHING)
    wire.negotiate()
    yield wire
    wire.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


# -- the declarations


def test_registry_holds_every_command_of_the_specification() -> None:
    assert {command.number: command.name for command in EVERY} == SPECIFIED


@each(EVERY)
def test_declaration_names_its_clause(command: type[Command]) -> None:
    assert f"VFIO_USER_{command.name}" in (inspect.getdoc(command) or "")


@each(EVERY)
def test_declaration_has_a_file_of_its_own(command: type[Command]) -> None:
    file = Path(inspect.getfile(command))
    assert file.parent == Path(vfuserver.session.commands.__file__).parent
    assert file.stem == command.name.lower()
    classes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    assert sum(any("Command" in ast.dump(base) for base in node.bases) for node in classes) == 1


def test_every_file_declares_a_command() -> None:
    files = {path.stem for path in Path(vfuserver.session.commands.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {command.name.lower() for command in EVERY}
    assert all(f"vfuserver.session.commands.{name}" in sys.modules for name in files)


@each([command for command in EVERY if command.direction is Direction.TO_CLIENT])
def test_command_of_the_server_has_no_handler(command: type[Command]) -> None:
    assert not command.served
    assert not command.in_core


# -- the layouts


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
def test_layout_round_trips(layout: Layout, data: st.DataObject) -> None:
    fields = data.draw(values(layout))
    message = layout.build(**fields)
    parsed = plain(layout.parse(message))
    assert fields.items() <= parsed.items()
    assert layout.build(**parsed) == message


@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=st.data())
def test_layout_unpacks_what_it_parses(layout: Layout, data: st.DataObject) -> None:
    message = layout.build(**data.draw(values(layout)))
    integers = layout.unpack(message)
    assert integers == tuple(int(layout.parse(message)[name]) for name in layout.names[: len(integers)])
    assert message.startswith(layout.pack(*integers))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_refuses_less_than_its_fixed_part(layout: Layout) -> None:
    for length in range(layout.size):
        with pytest.raises(LayoutError):
            layout.parse(bytes(length))


@pytest.mark.parametrize("command", EVERY, ids=lambda command: command.name)
@given(payload=st.binary(max_size=80), reply=st.booleans())
def test_render_never_fails(command: type[Command], payload: bytes, reply: bool) -> None:
    make = reply_message if reply else command_message
    line = render(make(command.number, 3, payload))
    assert line.startswith(f"{command.name} #3 ")
    assert "\n" not in line


# -- what a session does with them


@each(ANSWERED)
def test_short_payload_is_einval(command: type[Command], device: MigratingDevice) -> None:
    """S3.17: fixed-size structures must be complete."""
    for length in range(command.request.size):
        wire = Wire(device, EVERYTHING)
        if command is not Version:
            wire.negotiate()
        assert wire.ask(command, bytes(length)).errno == errno.EINVAL
        wire.close()


@each(AFTER_VERSION)
def test_surplus_descriptors_are_einval_and_closed(command: type[Command], wire: Wire, pipe: tuple[int, int]) -> None:
    """S1.10: all received descriptors are closed."""
    before = len(os.listdir("/proc/self/fd"))
    fds = [pipe[0]] * (command.max_fds + 1)
    assert wire.ask(command, bytes(command.request.size), fds).errno == errno.EINVAL
    assert len(os.listdir("/proc/self/fd")) == before


@each(FROM_CLIENT)
def test_no_reply_stays_silent(command: type[Command], wire: Wire) -> None:
    """vfio-user specification, Header: No_reply; errors are silent too."""
    assert wire.send(command.number, bytes(command.request.size), flags=NO_REPLY) == []
    assert wire.send(command.number, b"", flags=NO_REPLY) == []
    assert wire.session.stream.broken is None


@each([command for command in EVERY if command.direction is Direction.TO_CLIENT])
def test_command_of_the_server_from_a_client_is_enotsup(command: type[Command], wire: Wire) -> None:
    assert wire.ask(command, bytes(command.request.size)).errno == errno.ENOTSUP


@pytest.mark.parametrize("number", [0, 14, 20, 0xFFFF])
def test_unknown_command_is_enotsup_and_its_descriptors_are_closed(
    number: int, device: MigratingDevice, pipe: tuple[int, int]
) -> None:
    """S3.1: 14 (the old DIRTY_PAGES) like any other unknown command; the connection lives."""
    wire = Wire(device)
    wire.negotiate()
    (reply,) = wire.send(number, b"whatever", [pipe[0], pipe[1]])
    assert reply.errno == errno.ENOTSUP
    assert wire.session.stream.broken is None
    wire.close()


@each([command for command in EVERY if command is not Version])
def test_command_before_version_closes(command: type[Command], device: MigratingDevice, pipe: tuple[int, int]) -> None:
    """requirements.md: a command before VERSION closes the connection."""
    wire = Wire(device, EVERYTHING)
    assert wire.send(command.number, bytes(command.request.size), [pipe[0]]) == []
    assert "before VERSION" in (wire.session.stream.broken or "")
    assert device.log == []
    wire.close()


def test_second_version_is_einval(wire: Wire, device: MigratingDevice) -> None:
    assert wire.negotiate().errno == errno.EINVAL
    assert device.log == ["attach"]
    assert wire.session.stream.broken is None
