"""State: plain attributes that reset, save and restore by declaration."""

import pytest

from vfuserver import Bar, CommandError, KiB, LocalError, PciDevice, PciIdentity, ResetReason, State


class Stateful(PciDevice):
    """A field of each kind."""

    identity = PciIdentity(vendor=0x1234, device=0x0006)
    number = State(1)
    flag = State(False)
    text = State("idle")
    data = State(b"")
    buffer = State(bytearray(4))
    queue: State[list[int]] = State([])
    mmio = Bar(0, size=4 * KiB)
    register = mmio.rw(0, reset=7)
    powered_on = 0

    def on_reset(self) -> None:
        self.powered_on += 1


def changed() -> Stateful:
    device = Stateful()
    device.number, device.flag, device.text, device.data = 5, True, "busy", b"x"
    device.buffer[0] = 9
    device.queue.append(3)
    device.register = 8
    return device


def test_state_begins_with_its_default_and_is_the_instance_s_own() -> None:
    one, other = changed(), Stateful()
    assert (other.number, other.flag, other.text, other.data, other.queue) == (1, False, "idle", b"", [])
    assert (bytes(one.buffer), bytes(other.buffer)) == (b"\x09\0\0\0", bytes(4))


def test_reset_brings_defaults_back_and_calls_on_reset() -> None:
    device = changed()
    device.reset(ResetReason.POWER)
    assert (device.number, device.flag, device.text, device.data, device.queue) == (1, False, "idle", b"", [])
    assert (bytes(device.buffer), device.register) == (bytes(4), 7)
    assert device.powered_on == 2


def test_snapshot_is_plain_data_and_restores() -> None:
    device, other = changed(), Stateful()
    saved = device.snapshot()
    device.queue.append(4)
    assert saved["state"]["queue"] == [3]
    assert saved["registers"] == {"BAR0": {"register": b"\x08\0\0\0"}}
    other.restore(saved)
    assert (other.number, other.flag, other.text, other.data, other.queue) == (5, True, "busy", b"x", [3])
    assert (other.buffer, other.register) == (bytearray(b"\x09\0\0\0"), 8)


def test_state_that_stopped_being_plain_data_is_told_by_name() -> None:
    device = changed()
    device.queue.append(object())  # type: ignore[arg-type]
    with pytest.raises(LocalError, match=r"stateful\.queue must be plain data"):
        device.snapshot()


def test_snapshot_of_another_device_is_einval() -> None:
    saved = changed().snapshot()
    del saved["state"]["text"]
    saved["state"]["texture"] = 1
    device = Stateful()
    with pytest.raises(CommandError, match="saved state are of another device: text, texture"):
        device.restore(saved)
    assert device.number == 1


def test_registers_of_another_size_are_einval() -> None:
    saved = changed().snapshot()
    saved["registers"]["BAR0"]["register"] = b"\0"
    with pytest.raises(CommandError, match="registers differ from the saved ones: register"):
        Stateful().restore(saved)
