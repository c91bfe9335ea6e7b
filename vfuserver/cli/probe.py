"""`vfuserver probe SOCKET`: what any vfio-user server offers, asked as a client. What to ask: `_probing`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from vfuserver.cli._parameters import json_option, timeout_option
from vfuserver.cli._table import size, table


@click.command(short_help="Show what a vfio-user server offers.")
@click.argument("socket", type=click.Path(path_type=Path))
@json_option()
@click.option("--config-space", is_flag=True, help="Print configuration space as `lspci -xxxx` does, and nothing else.")
@timeout_option()
def command(socket: Path, as_json: bool, config_space: bool, timeout: float) -> None:
    """Connect to the vfio-user server at SOCKET, anybody's, and show what it offers.

    Nothing is changed: the device is not reset, no memory is mapped, no register is read outside configuration space.
    A server takes one client at a time, so the device must not be in use.

    \b
    Examples:
      vfuserver probe /tmp/edu.sock
      vfuserver probe /tmp/edu.sock --config-space > edu.txt; lspci -F edu.txt -vvv
    """
    import asyncio

    from vfuserver.cli._probing import probe

    found = asyncio.run(probe(socket, timeout))
    if config_space:
        click.echo(_dump(bytes.fromhex(found["config_space"]), socket), nl=False)
    elif as_json:
        import json

        click.echo(json.dumps(found, indent=2))
    else:
        click.echo("\n".join(_lines(found)))


def _dump(image: bytes, socket: Path) -> str:
    from vfuserver.errors import VfuserverError
    from vfuserver.pci.lspci import render

    if not image:
        raise VfuserverError(f"the server at {socket} shows no configuration space")
    whole = next((length for length in (0x40, 0x100, 0x1000) if len(image) <= length), 0x1000)
    return render(image[:whole].ljust(whole, b"\0"))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['socket']}: vfio-user {found['version']}"
    yield from ("", "Capabilities of the server")
    yield table(("NAME", "VALUE"), found["capabilities"].items(), "  ")
    device = found["device"]
    yield from ("", f"Device: {' '.join(device['flags'])}, {device['regions']} regions, {device['irqs']} interrupts")
    yield from ("", "Regions")
    yield table(("INDEX", "NAME", "SIZE", "FLAGS", "DESCRIPTOR", "MAPPABLE"), map(_region, found["regions"]), "  ")
    yield from ("", "Interrupts")
    yield table(("INDEX", "NAME", "VECTORS", "FLAGS"), map(_irq, found["irqs"]), "  ")
    if pci := found["pci"]:
        yield from ("", f"PCI function {pci['vendor']:04x}:{pci['device']:04x} revision {pci['revision']:02x}")
        yield f"  class {pci['class_code']:06x}, subsystem {pci['subsystem_vendor']:04x}:{pci['subsystem']:04x}"
        if pci["capabilities"]:
            yield table(("OFFSET", "ID", "CAPABILITY"), map(_capability, pci["capabilities"]), "  ")


def _region(region: Mapping[str, Any]) -> tuple[object, ...]:
    if "error" in region:
        return region["index"], region["name"], "-", region["error"], "", ""
    descriptor = f"at {region['offset']:#x}" if region["descriptor"] else ""
    areas = " ".join(f"{area['offset']:#x}+{area['size']:#x}" for area in region["areas"])
    mappable = areas or ("all" if region["descriptor"] else "")
    what = size(region["size"]) if region["size"] else "-"
    return region["index"], region["name"], what, " ".join(region["flags"]), descriptor, mappable


def _irq(irq: Mapping[str, Any]) -> tuple[object, ...]:
    if "error" in irq:
        return irq["index"], irq["name"], "-", irq["error"]
    return irq["index"], irq["name"], irq["count"], " ".join(irq["flags"])


def _capability(one: Mapping[str, Any]) -> tuple[object, ...]:
    version = f" v{one['version']}" if one["extended"] else ""
    return f"{one['offset']:#05x}", f"{one['id']:#04x}", f"{one['name'] or 'unknown'}{version}"
