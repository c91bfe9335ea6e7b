"""A process of `serve` that takes over from another one, and what becomes of the one that was started first.

It must not know what devices and connections carry.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vfuserver.cli import _anchor
from vfuserver.cli._serving import Wanted, make, make_home
from vfuserver.errors import UsageError, VfuserverError

if TYPE_CHECKING:
    from vfuserver.control.channel import Received
    from vfuserver.control.succession import Predecessor
    from vfuserver.device import PciDevice
    from vfuserver.engine import Server
    from vfuserver.engine.serving import Serve
    from vfuserver.session import SessionOptions


async def succeed(server: Server, wanted: Sequence[Wanted], predecessor: Predecessor, every: float) -> Received:
    """Makes the devices, and takes over what another process serves with them; `server` serves on the return, and its
    supervisor, if it has one, is told all of it every so many seconds.

    What the companions of its server have carried, by name. VfuserverError: nothing was taken over; the other one was
    told why and goes on.
    """
    from vfuserver.control.safekeeping import NAME, Safekeeping
    from vfuserver.engine import require_portable

    with ExitStack() as unserved:
        try:
            for wish in wanted:
                require_portable(wish.engine, f"{wish.name or wish.device} cannot be taken over")
            made = [one for wish in wanted for one in _make(wish, unserved)]
            received = await predecessor.carried([device.name for device, *_ in made])
            unserved.push(received)
            if (channel := received.value["companions"].get(NAME)) is not None:
                Safekeeping.of(server, os.dup(channel.fd), every)
            _adopt(server, made, received.value["served"])
            for served, noted in zip(server.served, received.value.get("notes", ()), strict=False):
                served.again(noted)
            await predecessor.taken()
        except BaseException as error:
            server.leave()
            if isinstance(error, VfuserverError) and predecessor.refuse(error):
                raise SystemExit(1) from error  # whoever was told will say it
            raise
        unserved.pop_all()
    if server.safe is not None:
        server.safe.begin()
    server.resume()
    received.value = received.value["companions"]
    return received


Made = Sequence["tuple[PciDevice, SessionOptions, Serve]"]


def _make(wish: Wanted, unserved: ExitStack) -> Made:
    """As _serving.make(), where it is going to live; `unserved` takes it back."""
    home = make_home(wish)
    unserved.callback(home.end)
    made = home.call_patiently(partial(make, wish))
    for device, _ in made:
        unserved.callback(home.call_patiently, device.close)
    return [(device, options, home.serve) for device, options in made]


def _adopt(server: Server, made: Made, served: Sequence[Mapping[str, Any]]) -> None:
    """CommandError, OSError, PeerError: something of it cannot be."""
    from vfuserver.engine import Listener

    now, before = [device.name for device, *_ in made], [one["name"] for one in served]
    if now != before:
        raise UsageError(f"the devices must be {', '.join(before)}, not {', '.join(now)}: stop the server instead")
    for (device, options, serve), carried in zip(made, served, strict=True):
        path = carried["path"]
        sock = socket.socket(fileno=os.dup(carried["listener"].fd))
        server.adopt(device, Listener(sock, None if path is None else Path(path)), carried, options, serve)


def stay_behind() -> NoReturn:
    """Another process serves, a child of this one: stays as its parent, with next to nothing in memory, until it ends.

    Signals are passed on, and the exit code is the last server's.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _anchor.SIGNALS)  # and what comes meanwhile stays for the anchor
    os.execv(sys.executable, [sys.executable, "-I", "-S", _anchor.__file__])
