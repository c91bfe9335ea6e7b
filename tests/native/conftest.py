import pytest

from tests.native.streams import Peer


@pytest.fixture
def peer() -> Peer:
    """A negotiated stream with the register map of `streams.LAYOUT` as region 0 and a plain callable as region 1."""
    return Peer()
