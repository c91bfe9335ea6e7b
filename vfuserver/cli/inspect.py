"""`vfuserver inspect SOCKET-OR-PID`: what a running server holds, asked over its control socket and made readable."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from vfuserver.cli._parameters import json_option
from vfuserver.cli._table import size, table


@click.command(short_help="Show what a running server holds.")
@click.argument("server", metavar="SOCKET-OR-PID")
@json_option()
@click.option("--areas", is_flag=True, help="List every area of client memory, not the first 256 of each space.")
def command(server: str, as_json: bool, areas: bool) -> None:
    """Ask a running `vfuserver serve` or `run`, by one of its sockets or its process id, what it holds.

    Devices with their gate, jobs and pending interrupts; clients with what was negotiated and what waits; address
    spaces with their areas, files, views and log of writes. Nothing is changed, and the devices stay in use. Only the
    user who runs the server, and root, may ask: the control socket is SOCKET.control.

    \b
    Examples:
      vfuserver inspect /tmp/edu.sock
      vfuserver inspect $(pidof -x vfuserver) --areas --json
    """
    from vfuserver.control import ControlClient, control_socket

    with ControlClient(control_socket(server)) as control:
        found = control.ask("inspect")
        if areas:
            for space in found["spaces"]:
                space["areas"] = list(_all_areas(control.ask, space["id"]))
    if as_json:
        import json

        click.echo(json.dumps(found, indent=2))
    else:
        click.echo("\n".join(_lines(found)))


def _all_areas(ask: Any, space: int) -> Iterator[Mapping[str, Any]]:
    """Every area of a space, a piece a request; memory that is mapped meanwhile may be missing."""
    iova = 0
    while piece := ask("areas", space=space, iova=iova):
        yield from piece
        iova = piece[-1]["iova"] + piece[-1]["size"]
        if iova >> 64:
            return


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"vfuserver {found['server']['version']}, process {found['server']['pid']}"
    for device in found["devices"]:
        yield from ("", *_device(device))
    views = {access["ioas"]: access["views"] for access in found["accesses"]}
    for space in found["spaces"]:
        yield from ("", *_space(space, views.get(space["id"], ())))
    if sources := found["sources"]:
        yield from ("", "Page sources")
        heads = ("ID", "DEVICE", "INODE", "BYTES", "ACCESS", "BY", "USERS", "VIEWS", "STATE")
        yield table(heads, map(_source, sources), "  ")


def _device(device: Mapping[str, Any]) -> Iterator[str]:
    yield f"Device {device['name']} on {device.get('socket') or 'an inherited socket'}"
    if "error" in device:
        yield f"  cannot be inspected: {device['error']}"
        return
    yield from _facts(
        {
            "thread": _thread(device.get("thread")),
            "gate": " ".join(device["gate"]) or "closed",
            "refused": device["refused"] and f"{device['refused']} accesses while the gate was closed",
            "migration": device["migration"],
            "jobs": _counted(device.get("jobs", {})),
            "timers": " ".join(name for name, armed in device.get("timers", {}).items() if armed),
            "under way": _counted({key: device.get(key, 0) for key in ("accesses", "dma")}),
            "pending": _counted(device.get("interrupts", {}).get("pending", {})),
        }
    )
    if device["connection"] is None:
        yield "  no client"
    else:
        yield from _connection(device["connection"])


def _connection(one: Mapping[str, Any]) -> Iterator[str]:
    pid = one["peer_pid"]
    yield f"  client {one['label']}, {'process ' + str(pid) if pid else 'process not known'}, {one['state']}"
    messages, transfer = one["dma_messages"], one["max_transfer"]
    waiting = {key: messages[key] for key in ("transfers", "messages", "bytes")}
    yield from _facts(
        {
            "says": " ".join(f"{key}={_plain(value)}" for key, value in one["client"].items()),
            "messages": transfer and f"up to {size(transfer['receive'])} in, {size(transfer['send'])} out",
            "twin socket": "yes" if one["twin_socket"] else "",
            "received": f"{one['received']} messages",
            "polling": _polling(one.get("polling")),
            "queued": one["queued"] and f"{size(one['queued'])} that the client has not read",
            "held": one["held"],
            "message DMA": ", ".join(filter(None, (messages["layout"], _counted(waiting)))),
            "interrupts": "; ".join(_irq(name, irq) for name, irq in one["interrupts"].items() if any(irq.values())),
        },
        "    ",
    )


def _facts(facts: Mapping[str, object], indent: str = "  ") -> Iterator[str]:
    """Those that say something."""
    rows = [(name, value) for name, value in facts.items() if value]
    width = max(len(name) for name, _ in rows)
    yield from (f"{indent}{name.ljust(width)}  {value}" for name, value in rows)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def _number(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'s' * (count != 1)}"


def _plain(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _thread(thread: Mapping[str, Any] | None) -> str:
    """The device's own, if it has one."""
    return "" if thread is None else f"{thread['name']}, {thread['cpu_seconds']:.3f} s of CPU so far"


def _polling(polling: Mapping[str, Any] | None) -> str:
    """What it does now, and has cost; nothing of an engine that has none."""
    if polling is None:
        return ""
    if not polling["limit_us"]:
        return "off"
    if polling["mode"] == "dedicated":
        return (
            f"always, by a thread that takes a whole processor; {polling['hits']} messages came to it, "
            f"{polling['yields']} times something else did, {polling['seconds']:.3f} s of CPU spent waiting"
        )
    now = f"waits {polling['window_us']} us" if polling["window_us"] else "does not pay now"
    return (
        f"{now}; {polling['hits']} of {polling['spins']} waits were worth it, {polling['yields']} gave way to others, "
        f"{polling['seconds']:.3f} s of CPU in all; {polling['woken']} of {polling['sleeps']} sleeps ended by a message"
    )


def _irq(name: str, irq: Mapping[str, Any]) -> str:
    parts = ["armed" if irq["armed"] else "not armed", _counted({key: irq[key] for key in ("eventfds", "masked")})]
    return f"{name} {', '.join(filter(None, parts))}"


def _space(space: Mapping[str, Any], views: Any) -> Iterator[str]:
    dirty, areas = space["dirty"], space["areas"]
    log = ", writes are logged" * dirty["logging"]
    log += f", {_number(dirty['unreported'], 'dirty page')} unmapped unreported" * bool(dirty["unreported"])
    yield (
        f"Address space {space['id']} of {space['name']}: {_number(space['count'], 'area')}, "
        f"{size(space['bytes'])}, {_number(space['pins'], 'view')}{log}"
    )
    if areas:
        yield table(("IOVA", "SIZE", "ACCESS", "BY", "SOURCE", "OFFSET"), map(_area, areas), "  ")
    if len(areas) < space["count"]:
        yield f"  and {space['count'] - len(areas)} more areas (--areas lists all of them)"
    if any(file["trust"] != "trusted" for file in space["files"]):
        yield table(("FILE", "AREAS", "TRUST"), (file.values() for file in space["files"]), "  ")
    if views:
        yield table(("VIEW", "SIZE", "ACCESS", "STATE"), map(_view, views), "  ")


def _area(area: Mapping[str, Any]) -> tuple[object, ...]:
    what = (area["source"], f"{area['offset']:#x}") if area["source"] else ("", "")
    return f"{area['iova']:#x}", size(area["size"]), _permissions(area), area["access"], *what


def _view(view: Mapping[str, Any]) -> tuple[object, ...]:
    state = "wanted back" if view["wanted"] else "" if view["valid"] else "lost"
    return f"{view['iova']:#x}", size(view["size"]), "rw" if view["writable"] else "r", state or "held"


def _source(source: Mapping[str, Any]) -> tuple[object, ...]:
    keys = ("id", "device", "inode")
    state = "dead" if source["dead"] else "alive"
    counts = (source["users"], source["views"] or "")
    return *(source[key] for key in keys), size(source["bytes"]), _permissions(source), source["access"], *counts, state


def _permissions(one: Mapping[str, Any]) -> str:
    return "".join(letter for letter, key in (("r", "readable"), ("w", "writable")) if one[key])
