"""Devices and cards from what a person asked for to what a Server serves: made, listened for, added.

`serve`, `run` and `demo` use it. It must not know the command line; errors are UsageError.
"""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfuserver.errors import UsageError
from vfuserver.session.options import DEDICATED

if TYPE_CHECKING:
    from vfuserver.device import Model, PciDevice
    from vfuserver.engine import Home, Listener, Server
    from vfuserver.guest import Plug
    from vfuserver.session import SessionOptions


@dataclass(frozen=True, slots=True)
class Wanted:
    """One device or card to serve: on `sockets` (made here) or on the inherited descriptors `fds`, one a function.

    `name` is what the log calls it (default: the device's own name), `rom` a file for its expansion ROM, `session` the
    SessionOptions that were given, `engine` what serves it.
    """

    device: str
    sockets: Sequence[Path] = ()
    fds: Sequence[int] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    name: str | None = None
    rom: Path | None = None
    socket_mode: int = 0o600
    suggest: bool = False
    engine: str = "vfuserver"
    session: Mapping[str, Any] = field(default_factory=dict)


def use_all_descriptors() -> None:
    """Raises the soft limit of descriptors to the hard one: clients' files may take a quarter of them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def warm_up() -> None:
    """Imports what listening did not need, so that no client waits for it."""
    from vfuserver.session import COMMANDS, FEATURES

    import_module("vfuserver.engine.unix_socket")
    COMMANDS.all()
    FEATURES.all()


def make(wanted: Wanted) -> list[tuple[PciDevice, SessionOptions]]:
    """The device, or the card's functions, made and not served yet, and how each is to be. UsageError: no such device
    or option, or not one place for each function; then nothing is left behind."""
    from vfuserver.device import load_model, power_on, suggest
    from vfuserver.session import SessionOptions

    options = SessionOptions(**wanted.session)
    model = load_model(wanted.device)
    require_places(model, len(wanted.sockets) + len(wanted.fds))
    functions = power_on(model, wanted.options, wanted.name, wanted.rom)
    for function in functions:
        if wanted.suggest:
            suggest(function)
        _warn_of_long_rom(function, options)
    return [(function, options) for function in functions]


def add(server: Server, wanted: Wanted) -> list[str]:
    """Makes the device, or the card's functions, listens, and has `server` serve them from now on.

    The words after `ready` on stdout, one line a function. UsageError as make(), or it cannot listen there, or the
    process may have no more descriptors; then nothing is left behind.
    """
    try:
        return _add(server, wanted)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise UsageError(
            f"{wanted.name or wanted.device} cannot be served beside the others: this process may have {hard} "
            f"descriptors, and each device needs some: raise the limit (ulimit -Hn), or serve fewer in one process"
        ) from None


def _add(server: Server, wanted: Wanted) -> list[str]:
    from vfuserver.engine import find_engine

    engine = find_engine(wanted.engine)
    with ExitStack() as unserved:
        home = make_home(wanted)
        unserved.callback(home.end)
        made = home.call_patiently(lambda: make(wanted))
        for function, _ in made:
            unserved.callback(home.call_patiently, function.close)
        places = []
        for listener, address in _listeners(wanted):
            unserved.callback(listener.close)
            places.append((listener, address))
        for (function, options), (listener, _) in zip(made, places, strict=True):
            engine.check(function, options, listener)
        for (function, options), (listener, _) in zip(made, places, strict=True):
            server.add(function, listener, options, home.serve)
        unserved.pop_all()
    return [f"{function.name} {address}" for (function, _), (_, address) in zip(made, places, strict=True)]


def make_home(wanted: Wanted) -> Home:
    """Where it is to be made and served: a thread that begins now, if it is to have one."""
    from vfuserver.engine import find_engine, find_home

    poll = wanted.session.get("poll", "")
    if poll == DEDICATED:
        warm_up()  # no two threads may import the same at the same time
    return find_home(find_engine(wanted.engine), poll, f"{wanted.name or wanted.device} (its own thread)")


def require_one_thread(wanted: Wanted, what: str) -> None:
    """UsageError if it has a thread of its own; `what` cannot be done with one."""
    if wanted.session.get("poll") == DEDICATED:
        why = "its supervisor would be told by two threads; use --poll auto"
        raise UsageError(f"{wanted.name or wanted.device} cannot be served with --poll dedicated and {what}: {why}")


def _warn_of_long_rom(function: PciDevice, options: SessionOptions) -> None:
    """QEMU asks for the whole ROM in one message, gets EINVAL for one that is too long, and shows the guest no ROM."""
    from vfuserver.vfio import PciRegion

    size, limit = function.regions[PciRegion.ROM].size, options.max_data_xfer_size
    if size > limit:
        function.log.warning(
            "%s: QEMU cannot read the expansion ROM of %d bytes, as messages have at most %d: "
            "raise max-data-xfer-size to the ROM's size",
            function.name,
            size,
            limit,
        )


def require_places(model: Model, count: int) -> None:
    """UsageError, which names the functions, unless there is one place for each."""
    from vfuserver.device import function_classes

    names = list(function_classes(model))
    if count == len(names):
        return
    if len(names) == 1:
        raise UsageError(f"{model.device_name} is one device and must have one socket, not {count}")
    listed = ", ".join(f"{number} ({name})" for number, name in enumerate(names))
    raise UsageError(
        f"{model.device_name} is a card and must have a socket for each of its {len(names)} functions, not {count}; "
        f"in this order: {listed}"
    )


def plugs(model: Model, name: str, sockets: Sequence[Path]) -> list[Plug]:
    """What QEMU plugs in: one device, or each function of a card that is called `name`."""
    from vfuserver.cli._qemu import qemu_id
    from vfuserver.device import function_names
    from vfuserver.guest.topology import Plug

    ids = [qemu_id(one) for one in function_names(model, name)]
    several = len(ids) > 1
    return [
        Plug(one, path, function=number if several else None)
        for number, (one, path) in enumerate(zip(ids, sockets, strict=True))
    ]


def _listeners(wanted: Wanted) -> Iterator[tuple[Listener, str]]:
    """Each place with where clients connect: the path, or the name that an inherited socket has, or its descriptor."""
    from vfuserver.engine import Listener, adopt, listen

    for path in wanted.sockets:
        yield listen(path, wanted.socket_mode), str(path)
    for fd in wanted.fds:
        listener = Listener(adopt(fd))
        name = listener.socket.getsockname()
        yield listener, name if isinstance(name, str) and name else f"fd:{fd}"
