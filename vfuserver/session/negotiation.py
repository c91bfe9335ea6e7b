"""The JSON of VERSION: what each end says that it can, and what the other makes of it.

The client proposes, the server repeats what it speaks of that, each key with the server's own value. Two rules come
from QEMU (field-notes C.2): a reply longer than the request ends its start-up, and it complains about a key that it
did not propose. So a reply holds proposed keys only, inside `capabilities`, in the order of `Capabilities`, and loses
keys until it is no longer than the request was (a client that proposes a twin socket has room for the index which that
adds). A key that is absent means its default (vfio-user specification, Version): keys that say no more than that are
lost first, then others, each time from the end; the order puts those first whose loss would hurt most.

It must not know sessions or messages; the server and the Python client both use it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from vfuserver.errors import PeerError

TWIN_SOCKET: Final = "twin_socket"
_FD_INDEX: Final = {"fd_index": 0}
"""What a reply says of the twin socket beyond the proposal: which of its descriptors is the client's end."""
_FD_INDEX_SIZE: Final = len(',"fd_index":0')


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one end can receive; the defaults are the specification's for an absent key."""

    twin_socket: bool = False
    """The server's commands and their replies may have a socket of their own (`{"supported": true}` on the wire)."""
    max_data_xfer_size: int = 1048576
    """Largest `count` of a data transfer message, bytes."""
    max_msg_fds: int = 1
    """Descriptors it takes with one message."""
    max_dma_maps: int = 65535
    """Areas that may be mapped at one time."""
    write_multiple: bool = False
    """REGION_WRITE_MULTI is understood."""
    pgsizes: int = 4096
    """Page sizes of DMA maps, or'ed together, bytes."""
    sparse_mmap_fds: bool = False
    """A region's info may name several descriptors."""
    whole_messages: bool = False
    """A message is taken in however many parts it arrives. Our own key: libvfio-user's servers take what one recv gives
    them, so state is written to a server that does not say this in small pieces."""

    @classmethod
    def stated(cls, capabilities: Mapping[str, Any]) -> Self:
        """What the peer's `capabilities` object says. Unknown keys are not ours to judge. PeerError: a wrong type."""
        known = {field.name: capabilities[field.name] for field in fields(cls) if field.name in capabilities}
        if TWIN_SOCKET in known:
            known[TWIN_SOCKET] = _twin_supported(known[TWIN_SOCKET])
        for name, value in known.items():
            _check(name, value)
        return cls(**known)


_LEAST = {"max_data_xfer_size": 1, "max_msg_fds": 0, "max_dma_maps": 0, "pgsizes": 1}
"""The least value that means something, by key; the keys that are not here are booleans."""


def _check(name: str, value: object) -> None:
    if name not in _LEAST:
        if not isinstance(value, bool):
            raise PeerError(f"VERSION: {name} must be true or false, not {value!r}")
    elif not isinstance(value, int) or isinstance(value, bool) or value < _LEAST[name]:
        raise PeerError(f"VERSION: {name} must be a number of at least {_LEAST[name]}, not {value!r}")


def _twin_supported(value: object) -> bool:
    """Whether a `twin_socket` object says so."""
    if not isinstance(value, dict):
        raise PeerError(f"VERSION: {TWIN_SOCKET} must be a JSON object, not {value!r}")
    supported = value.get("supported", False)
    if not isinstance(supported, bool):
        raise PeerError(f"VERSION: {TWIN_SOCKET}.supported must be true or false, not {supported!r}")
    return supported


def twin_fd_index(offered: Mapping[str, Any], descriptors: int) -> int | None:
    """Which of a VERSION reply's descriptors is the twin socket; None: the server does not open one.

    PeerError: it says that it does, and names no descriptor of the reply (the client must then close).
    """
    if not _twin_supported(offered.get(TWIN_SOCKET, {})):
        return None
    index = offered[TWIN_SOCKET].get("fd_index")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < descriptors:
        raise PeerError(f"VERSION: the twin socket must be one of {descriptors} descriptors, not {index!r}")
    return index


def parse_version_data(data: bytes) -> dict[str, Any] | None:
    """The `capabilities` object of VERSION's data, {} if it has none; None if there is no data at all.

    PeerError: not terminated by NUL, not JSON, not an object.
    """
    if not data:
        return None
    text, nul, _ = data.partition(b"\0")
    if not nul or data[-1]:
        raise PeerError(f"VERSION: the version data must end with a NUL byte, not with {data[-1]:#04x}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PeerError(f"VERSION: the version data must be JSON, not {_excerpt(text)} ({error})") from error
    if not isinstance(value, dict):
        raise PeerError(f"VERSION: the version data must be a JSON object, not {_excerpt(text)}")
    capabilities = value.get("capabilities", {})
    if not isinstance(capabilities, dict):
        raise PeerError(f"VERSION: capabilities must be a JSON object, not {_excerpt(text)}")
    return capabilities


def _excerpt(text: bytes) -> str:
    return repr(text[:80].decode("ascii", "backslashreplace"))


def version_data(capabilities: Mapping[str, Any]) -> bytes:
    """The JSON as it goes over the wire, NUL included; `{}` when there is nothing to say."""
    value = {"capabilities": dict(capabilities)} if capabilities else {}
    return json.dumps(value, separators=(",", ":")).encode() + b"\0"


def answer(proposed: Mapping[str, Any], ours: Capabilities, room: int) -> dict[str, Any]:
    """Which of our capabilities the reply repeats, so that its JSON is no longer than `room` bytes.

    The twin socket comes first and has room for its index besides: it was opened for this reply, so it is in it.
    """
    spoken = {name: value for name, value in asdict(ours).items() if name in proposed and value is not False}
    if spoken.pop(TWIN_SOCKET, None):
        spoken = {TWIN_SOCKET: {"supported": True, **_FD_INDEX}, **spoken}
        room += _FD_INDEX_SIZE
    for name in [name for name, value in spoken.items() if value is True and proposed[name] is not True]:
        del spoken[name]
    defaults, last_first = asdict(Capabilities()), list(reversed(spoken))
    for name in sorted(last_first, key=lambda name: bool(spoken[name] != defaults[name])):
        if len(version_data(spoken)) <= room:
            break
        del spoken[name]
    return spoken
