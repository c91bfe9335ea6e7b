from collections.abc import Iterator

import pytest

from tests.native.streams import Peer
from vfuserver import _core


@pytest.fixture(params=["plain", "ledger"])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    """A negotiated stream with the register map of `streams.LAYOUT` as region 0 and a plain callable as region 1; it
    behaves the same with a ledger and without."""
    peer = Peer()
    if request.param == "ledger":
        peer.stream.use(_core.Ledger(1 << 20))
    yield peer
    peer.stream.close()
