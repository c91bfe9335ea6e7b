"""VERSION: S1.14, field-notes C.2."""

import errno
import json
from typing import Any

import pytest

from tests.session.device import LittleDevice
from tests.session.harness import QEMU_JSON, Message, Wire
from vfuserver.session import Capabilities, SessionOptions, State
from vfuserver.session.commands.version import Version
from vfuserver.session.negotiation import answer, version_data


def data_of(reply: Message) -> bytes:
    assert not reply.errno
    values = Version.reply.parse(reply.payload)
    assert (values.major, values.minor) == (0, 0)
    return bytes(values.data)


def capabilities(reply: Message) -> dict[str, Any]:
    data = data_of(reply)
    assert data.endswith(b"\0")
    parsed = json.loads(data[:-1])
    assert parsed.keys() <= {"capabilities"}
    return dict(parsed.get("capabilities", {}))


def propose(wire: Wire, **proposal: Any) -> Message:
    return wire.negotiate(version_data(proposal))


def test_qemus_proposal_is_answered_as_qemu_demands(fresh: Wire) -> None:
    """field-notes C.2: 0.0, a subset of the proposal, never migration, no longer than the request."""
    reply = fresh.negotiate(QEMU_JSON)
    assert capabilities(reply) == {
        "max_data_xfer_size": 1048576,
        "max_msg_fds": 16,
        "max_dma_maps": 65535,
        "pgsizes": 4096,
    }
    assert len(data_of(reply)) <= len(QEMU_JSON)


def test_write_multiple_is_repeated_when_enabled(device: LittleDevice) -> None:
    """field-notes C.4: off unless asked for."""
    wire = Wire(device, SessionOptions(write_multiple=True))
    assert capabilities(wire.negotiate(QEMU_JSON))["write_multiple"] is True
    wire.close()


def test_write_multiple_is_not_repeated_to_a_client_without_it(device: LittleDevice) -> None:
    wire = Wire(device, SessionOptions(write_multiple=True))
    assert capabilities(propose(wire, write_multiple=False, max_msg_fds=4)) == {"max_msg_fds": 16}
    wire.close()


def test_whole_messages_are_promised_to_who_asks(fresh: Wire) -> None:
    """S3.14: our own key, for clients that would write state in small pieces otherwise."""
    assert capabilities(propose(fresh, whole_messages=True))["whole_messages"] is True


def test_reply_states_our_own_values(device: LittleDevice) -> None:
    """S1.14: each key with the server's value."""
    wire = Wire(device, SessionOptions(max_msg_fds=8, max_data_xfer_size=64 << 20, max_dma_maps=4, pgsizes=0x201000))
    assert capabilities(wire.negotiate()) == {
        "max_data_xfer_size": 64 << 20,
        "max_msg_fds": 8,
        "max_dma_maps": 4,
        "pgsizes": 0x201000,
    }
    wire.close()


def test_unknown_keys_are_not_repeated(fresh: Wire) -> None:
    """S4.27: an unknown capability is ignored and not echoed."""
    reply = propose(fresh, cmd_iova=1, max_msg_fds=2)
    assert capabilities(reply) == {"max_msg_fds": 16}


def test_no_version_data_is_answered_without_data(fresh: Wire) -> None:
    assert data_of(fresh.negotiate(b"")) == b""
    assert fresh.session.connection.theirs == Capabilities()


@pytest.mark.parametrize("data", [b"{}\0", b'{"capabilities":{}}\0', b'{"other": 1}\0', b"{}\0\0\0"])
def test_nothing_proposed_is_answered_with_nothing(fresh: Wire, data: bytes) -> None:
    assert capabilities(fresh.negotiate(data)) == {}


def test_a_larger_minor_version_is_answered_with_ours(fresh: Wire) -> None:
    """The Rust client proposes 0.1."""
    reply = fresh.ask(Version, Version.request.build(major=0, minor=9, data=b""))
    assert data_of(reply) == b""


@pytest.mark.parametrize("width", range(1, 8))
def test_reply_is_never_longer_than_the_request(device: LittleDevice, width: int) -> None:
    """field-notes C.2: keys are dropped from the end, the most important ones last."""
    names = ["max_data_xfer_size", "max_msg_fds", "max_dma_maps", "pgsizes"]
    data = version_data({name: int("1" * width) for name in names})
    ours = {"max_data_xfer_size": 64 << 20, "max_msg_fds": 16, "max_dma_maps": 4096, "pgsizes": 0x201000}
    wire = Wire(device, SessionOptions(**ours))  # type: ignore[arg-type]
    reply = wire.negotiate(data)
    assert len(data_of(reply)) <= len(data)
    kept = capabilities(reply)
    assert list(kept) == names[: len(kept)]
    wire.close()


def test_reply_without_room_loses_first_what_an_absent_key_says_too(fresh: Wire) -> None:
    """S1.14: libvfio-user's sample client proposes fewer digits than we have, and must learn of our 16 descriptors."""
    reply = propose(fresh, max_msg_fds=32, max_data_xfer_size=1024)
    assert capabilities(reply) == {"max_msg_fds": 16}


@pytest.mark.parametrize(
    ("ours", "first"),
    [
        (Capabilities(max_msg_fds=16, write_multiple=True), ["pgsizes", "max_dma_maps", "max_data_xfer_size"]),
        (Capabilities(max_data_xfer_size=4096, max_msg_fds=16, max_dma_maps=9, pgsizes=8192), []),
    ],
)
def test_dropped_keys_are_the_defaults_and_then_the_last_of_a_fixed_order(ours: Capabilities, first: list[str]) -> None:
    proposed = dict.fromkeys(Capabilities.__slots__, True)
    whole = answer(proposed, ours, 1000)
    order = [*first, *(name for name in reversed(whole) if name not in first)]
    for room in range(len(version_data(whole)), 2, -1):
        kept = answer(proposed, ours, room)
        assert set(kept) == set(order[len(order) - len(kept) :])
        assert len(version_data(kept)) <= room


def test_pieces_to_the_client_honour_both_limits(device: LittleDevice) -> None:
    """S1.14: requests of ours never exceed the smaller of both sides' values."""
    for ours, theirs in ((1 << 20, 8192), (8192, 1 << 20)):
        wire = Wire(device, SessionOptions(max_data_xfer_size=ours))
        propose(wire, max_data_xfer_size=theirs)
        assert wire.session.connection.outgoing.max_transfer == 8192
        wire.close()


def test_a_client_that_is_not_told_our_limit_may_use_the_default(device: LittleDevice) -> None:
    """S1.14: specification defaults apply when a key is absent."""
    wire = Wire(device, SessionOptions(max_data_xfer_size=8192))
    wire.negotiate(b"")
    assert wire.session.stream.max_transfer == 1048576
    wire.close()


BAD = {
    b'{"capabilities": {}}': "NUL",
    b"\0": "JSON",
    b"{\0": "JSON",
    b"[1]\0": "object",
    b'"text"\0': "object",
    b'{"capabilities": 1}\0': "object",
    b'{"capabilities": {"max_msg_fds": "8"}}\0': "max_msg_fds",
    b'{"capabilities": {"max_data_xfer_size": 0}}\0': "max_data_xfer_size",
    b'{"capabilities": {"pgsizes": true}}\0': "pgsizes",
    b'{"capabilities": {"write_multiple": 1}}\0': "write_multiple",
    b'{"capabilities": {"twin_socket": true}}\0': "twin_socket",
    b'{"capabilities": {"twin_socket": {"supported": 1}}}\0': "twin_socket.supported",
    b"\xff\xfe\0": "JSON",
    b"[" * 100000 + b"\0": "JSON",
}


@pytest.mark.parametrize("data", BAD)
def test_bad_version_data_closes_and_says_why(fresh: Wire, device: LittleDevice, data: bytes) -> None:
    assert fresh.send(1, Version.request.build(major=0, minor=0, data=data)) == []
    assert BAD[data] in (fresh.session.stream.broken or "")
    assert fresh.session.state is State.FRESH
    assert device.log == []


def test_another_major_version_closes(fresh: Wire) -> None:
    assert fresh.send(1, Version.request.build(major=1, minor=0, data=b"")) == []
    assert "must be 0, not 1.0" in (fresh.session.stream.broken or "")


def test_a_short_version_is_einval_and_may_be_tried_again(fresh: Wire, device: LittleDevice) -> None:
    """S3.17."""
    assert fresh.ask(Version, b"\0\0").errno == errno.EINVAL
    assert not fresh.negotiate().errno
    assert device.log == ["attach"]


def test_the_device_is_attached_once_version_is_settled(fresh: Wire, device: LittleDevice) -> None:
    assert device.client is None
    fresh.negotiate()
    assert device.client is fresh.session.connection


def test_a_device_that_refuses_the_client_closes(fresh: Wire, device: LittleDevice, caplog: Any) -> None:
    def refuse(client: object) -> None:
        raise RuntimeError("not today")

    device.attach = refuse  # type: ignore[method-assign]
    assert fresh.send(1, bytes(4)) == []
    assert "not today" in (fresh.session.stream.broken or "")
    fresh.close()
    assert device.log == []
