"""The JSON of VERSION: what each end says that it can, and what the other makes of it.

The client proposes, the server repeats what it speaks of that, each key with the server's own value. Two rules come
from QEMU (field-notes C.2): a reply longer than the request ends its start-up, and it complains about a key that it
did not propose. So a reply holds proposed keys only, inside `capabilities`, in the order of `Capabilities`, and loses
keys from the end of that order until it is no longer than the request was. A key that is absent means its default
(vfio-user specification, Version): the order puts those first whose loss would hurt most.

It must not know sessions or messages; the server and the Python client both use it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from vfuserver.errors import PeerError


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one end can receive; the defaults are the specification's for an absent key."""

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

    @classmethod
    def stated(cls, capabilities: Mapping[str, Any]) -> Self:
        """What the peer's `capabilities` object says. Unknown keys are not ours to judge. PeerError: a wrong type."""
        known = {field.name: capabilities[field.name] for field in fields(cls) if field.name in capabilities}
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
    """Which of our capabilities the reply repeats, so that its JSON is no longer than `room` bytes."""
    spoken = {name: value for name, value in asdict(ours).items() if name in proposed and value is not False}
    for name in [name for name, value in spoken.items() if value is True and proposed[name] is not True]:
        del spoken[name]
    while spoken and len(version_data(spoken)) > room:
        spoken.popitem()
    return spoken
