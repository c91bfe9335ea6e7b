"""What a device feature is, and the checks that hold for all of them (DEVICE_FEATURE; linux/vfio.h).

A file of `session/features` declares one feature: its number, operations and layouts in the class statement, `get`
and `set` as methods. The order of the checks is the kernel's (S0.3): argsz; undefined flag bits; GET with SET; then
the index (ENOTTY: no such feature); an operation that it lacks, under PROBE too, or none at all; PROBE ends here with
success and no data; then the length of the data.

It must not know sessions: a feature gets the `Connection` that it works on.
"""

import errno
from collections.abc import Callable
from enum import IntFlag
from typing import ClassVar, Final

from vfuserver.errors import CommandError, DeclarationError
from vfuserver.session.command import Survival, need_argsz
from vfuserver.session.connection import Connection
from vfuserver.session.registry import Registry
from vfuserver.vfio import Later
from vfuserver.wire import EMPTY, U32, Layout


class Operation(IntFlag):
    """VFIO_DEVICE_FEATURE_*: what the flags of DEVICE_FEATURE ask for, above the feature's index."""

    GET = 1 << 16
    SET = 1 << 17
    PROBE = 1 << 18


INDEX_MASK: Final = 0xFFFF
DEFINED: Final = INDEX_MASK | int(Operation.GET | Operation.SET | Operation.PROBE)
_HEAD: Final = Layout("argsz" / U32, "flags" / U32)
FIXED: Final = _HEAD.size


class Feature:
    """One device feature. Subclasses say `class Migration(Feature, number=1, name="MIGRATION", operations=...)`."""

    number: ClassVar[int]
    name: ClassVar[str]
    operations: ClassVar[Operation]
    get_request: ClassVar[Layout] = EMPTY
    """Data of a GET's request."""
    set_request: ClassVar[Layout] = EMPTY
    """Data of a SET's request."""
    reply: ClassVar[Layout] = EMPTY
    """Data of a GET's reply. Where its size depends on the request, `reply_size` knows it."""

    survival: ClassVar[Survival] = Survival.NOTHING
    """Of a SET, as `Command.survival`."""

    def __init_subclass__(cls, *, number: int, name: str, operations: Operation) -> None:
        super().__init_subclass__()
        if not 0 < number <= INDEX_MASK:
            raise DeclarationError(f"{cls.__name__}.number must be 1 to {INDEX_MASK}, not {number}")
        cls.number, cls.name, cls.operations = number, name, operations
        FEATURES.add(cls)

    @classmethod
    def offered(cls, connection: Connection) -> bool:
        """Whether the connection's device has it; if not, it is as unknown as any other (ENOTTY)."""
        return True

    @classmethod
    def reply_size(cls, connection: Connection, data: bytes) -> int:
        """Bytes that `get` will give for a request's `data`: a client without room for them is told so, and nothing is
        done. CommandError, also for whatever `get` would refuse."""
        return cls.reply.size

    @classmethod
    def get(cls, connection: Connection, data: bytes) -> bytes | bytearray:
        """The feature's data, as many bytes as `reply_size` said; `data` is the request's. CommandError."""
        raise CommandError(errno.EINVAL, f"{cls.name} cannot be read")

    @classmethod
    def set(cls, connection: Connection, data: bytes) -> bytes | Later:
        """Sets the feature; returns the data of the reply (normally the request's own), or a Later that ends with
        them. CommandError."""
        raise CommandError(errno.EINVAL, f"{cls.name} cannot be set")


FEATURES: Final[Registry[int, Feature]] = Registry(
    "feature", "vfuserver.session.features", lambda feature: feature.number
)
"""Every device feature, by index."""

Find = Callable[[int], type[Feature] | None]


def answer(connection: Connection, find: Find, argsz: int, flags: int, payload: bytes) -> bytes | bytearray | Later:
    """The reply to a DEVICE_FEATURE with this payload. CommandError, in the order of the module's docstring."""
    feature = _checked(connection, find, argsz, flags)
    if flags & Operation.PROBE:
        return payload[:FIXED]
    data = payload[FIXED:]
    layout = feature.get_request if flags & Operation.GET else feature.set_request
    if len(data) < layout.size:
        raise CommandError(errno.EINVAL, f"{feature.name}: {len(data)} bytes of data, must be at least {layout.size}")
    if flags & Operation.SET:
        answered = feature.set(connection, data)
        head = payload[:FIXED]
        return answered.map(lambda own: head + own) if isinstance(answered, Later) else head + answered
    return _get(connection, feature, argsz, flags, data)


def _checked(connection: Connection, find: Find, argsz: int, flags: int) -> type[Feature]:
    need_argsz(argsz, FIXED)
    if flags & ~DEFINED:
        raise CommandError(errno.EINVAL, f"flags {flags:#x} with undefined bits {flags & ~DEFINED:#x}")
    both = int(Operation.GET | Operation.SET)
    if flags & both == both and not flags & Operation.PROBE:
        raise CommandError(errno.EINVAL, f"flags {flags:#x}: GET and SET together need PROBE")
    feature = find(flags & INDEX_MASK)
    if feature is None or not feature.offered(connection):
        raise CommandError(errno.ENOTTY, f"unknown feature {flags & INDEX_MASK}")
    asked = Operation(flags & ~INDEX_MASK)
    if not asked or asked & both & ~int(feature.operations):
        raise CommandError(errno.EINVAL, f"{feature.name}: {asked!r} of {feature.operations!r}")
    return feature


def _get(connection: Connection, feature: type[Feature], argsz: int, flags: int, data: bytes) -> bytes | bytearray:
    """argsz too small: the fixed part alone, with the argsz that is needed; nothing is taken that nobody gets."""
    needed = FIXED + feature.reply_size(connection, data)
    head = _HEAD.pack(needed, flags)
    if needed > argsz:
        return head
    reply = feature.get(connection, data)
    if isinstance(reply, bytes):
        return head + reply
    reply[:0] = head  # a large one is not copied
    return reply
