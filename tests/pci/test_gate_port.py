from vfuserver._core import Gate
from vfuserver.pci import Command, GatePort

ALL = Command.IO | Command.MEMORY | Command.MASTER


def test_gate_port_copies_enables_and_leaves_running_alone() -> None:
    gate = Gate()
    port = GatePort(gate)
    port.enables_changed(Command(0), ALL)
    assert gate.word == Gate.RUNNING | Gate.IO | Gate.MEMORY | Gate.MASTER
    port.enables_changed(ALL, Command.MASTER)
    assert gate.word == Gate.RUNNING | Gate.MASTER


def test_gate_port_not_running_stays_not_running() -> None:
    gate = Gate(0)
    GatePort(gate).enables_changed(Command(0), Command.MEMORY)
    assert gate.word == Gate.MEMORY
