"""The C structs agree with the construct declarations in size, offsets and values."""

import struct

from tests.native.messages import read, replies, write
from tests.native.streams import Peer
from vfuserver import _core


def test_every_struct_is_packed_as_the_specification_says() -> None:
    assert {name: size for name, (size, _) in _core.STRUCTS.items()} == {
        "header": 16,
        "region_access": 16,
        "write_multi": 8,
        "write_multi_entry": 24,
        "dma_access": 16,
        "dma_map": 32,
        "dma_unmap": 24,
    }


def test_header_of_a_reply_names_its_request(peer: Peer) -> None:
    ((number, command, flags, error, payload),) = peer.feed(read(0x10, 8, tag=0xBEEF))
    assert (number, command, flags, error) == (0xBEEF, 9, 1, 0)
    assert struct.unpack_from("<QII", payload) == (0x10, 0, 8)
    assert replies(write(0, b"")) == [(1, 10, 0, 0, struct.pack("<QII", 0, 0, 0))]
