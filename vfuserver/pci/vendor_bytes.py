"""Bytes whose meaning is the device's: what the three vendor-specific capabilities have in common (S2.28).

Reset values and a mask of stored bits make one field; what they leave out reads zero and drops writes. It must not
know which capability they lie in.
"""

from vfuserver.errors import DeclarationError
from vfuserver.pci.fields import Field


def require_room(name: str, room: int, initial: bytes, writable: bytes) -> None:
    """Refuses more bytes than the capability has behind its own registers."""
    for what, given in (("initial", initial), ("writable", writable)):
        if len(given) > room:
            raise DeclarationError(f"{name}.{what} must have at most {room} bytes, not {len(given)}")


def data_row(offset: int, room: int, initial: bytes, writable: bytes) -> Field:
    """The field `data`: `room` bytes from `offset` on."""
    reset, mask = (int.from_bytes(one, "little") for one in (initial, writable))
    return Field("data", offset, room, reset=reset, writable=mask)
