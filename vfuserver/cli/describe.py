"""`vfuserver describe DEVICE`: what a device or card is made of, from the declarations that serve it.

The data is `vfuserver.device.describe`'s; here it is made instance-specific (--set) and readable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from vfuserver.cli._parameters import device_argument, json_option, pairs, set_option
from vfuserver.cli._table import size, table

if TYPE_CHECKING:
    from vfuserver.device import PciDevice

_KINDS = {"io": "I/O ports", "memory32": "32-bit memory", "memory64": "64-bit memory"}


@click.command(short_help="Show what a device is made of.")
@device_argument()
@json_option()
@set_option()
def command(device: str, as_json: bool, settings: Sequence[tuple[str, str]]) -> None:
    """Show a device, or each function of a card: identity, BARs with registers, capabilities, interrupts, options.

    A register's policy says what an access does: RW, RO, WO, W1C (write 1 to clear), W1S, RC (read to clear),
    counter, memory. HOOKS are the accesses that run Python.

    \b
    Examples:
      vfuserver describe edu
      vfuserver describe testdev --set mappable=no --json
    """
    description = _describe(device, pairs(settings))
    if as_json:
        import json

        click.echo(json.dumps(description, indent=2))
    else:
        click.echo("\n".join(_lines(description)))


def _describe(device: str, given: Mapping[str, str]) -> dict[str, Any]:
    """The class's description, with the values and mappable areas that the given options lead to."""
    from vfuserver.device import load_model, power_on
    from vfuserver.device.describe import describe

    model = load_model(device)
    description = describe(model)
    made = power_on(model, given)
    for function, one in zip(description.get("functions", [description]), made, strict=True):
        _add_values(function, one)
        _add_areas(function, one)
    if "functions" in description:
        _add_values(description, made[0].card)
    for one in made:
        one.close()
    return description


def _add_values(description: Mapping[str, Any], made: object) -> None:
    for option in description["options"]:
        option["value"] = getattr(made, option["key"].replace("-", "_"))


def _add_areas(description: Mapping[str, Any], made: PciDevice) -> None:
    for bar in description["bars"]:
        areas = made.regions[bar["index"]].areas
        bar["mappable"] = [{"offset": area.offset, "size": area.size} for area in areas]


def _lines(one: Mapping[str, Any]) -> Iterator[str]:
    yield f"{one['name']}: {one['summary']}"
    if "functions" not in one:
        yield from ("", *_device(one))
        return
    yield from _section("Options of the card (--set)", ("KEY", "VALUE", "LEGAL", "WHAT"), map(_option, one["options"]))
    for number, function in enumerate(one["functions"]):
        yield from ("", f"Function {number}, {function['name']}: {function['summary']}", "", *_device(function))


def _device(one: Mapping[str, Any]) -> Iterator[str]:
    identity = one["identity"]
    yield f"Identity      {identity['vendor']:04x}:{identity['device']:04x} revision {identity['revision']:02x}"
    yield f"Subsystem     {identity['subsystem_vendor']:04x}:{identity['subsystem']:04x}"
    yield f"Class         {identity['class_code']:06x}"
    yield f"Config space  {size(one['config_size'])}"
    if one["rom"]:
        yield f"Expansion ROM {size(one['rom']['size'])} from {one['rom']['file']}"
    yield f"Interrupts    {_interrupts(one['interrupts'])}"
    for bar in one["bars"]:
        yield from ("", _bar_title(bar))
        yield table(
            ("OFFSET", "BYTES", "POLICY", "RESET", "HOOKS", "REGISTER", "WHAT"), map(_row, bar["registers"]), "  "
        )
    yield from _section("Capabilities", ("OFFSET", "ID", "BYTES", "NAME"), map(_capability, one["capabilities"]))
    yield from _section("Options (--set)", ("KEY", "VALUE", "LEGAL", "WHAT"), map(_option, one["options"]))


def _section(title: str, heads: Sequence[str], rows: Iterator[Sequence[object]]) -> Iterator[str]:
    listed = list(rows)
    if listed:
        yield from ("", title, table(heads, listed, "  "))


def _interrupts(counts: Mapping[str, Any]) -> str:
    parts = [f"INTx pin {counts['intx']}"] if counts["intx"] else []
    parts += [f"{name} x {counts[key]}" for key, name in (("msi", "MSI"), ("msix", "MSI-X")) if counts[key]]
    return ", ".join(parts) or "none"


def _bar_title(bar: Mapping[str, Any]) -> str:
    parts = [f"BAR{bar['index']} {bar['name']}: {size(bar['size'])}, {_KINDS[bar['kind']]}"]
    parts += ["prefetchable"] if bar["prefetchable"] else []
    areas = " and ".join(f"{area['offset']:#x} to {area['offset'] + area['size']:#x}" for area in bar["mappable"])
    parts += [f"mappable from {areas}"] if areas else []
    return ", ".join(parts) + (f" ({bar['doc']})" if bar["doc"] else "")


def _row(row: Mapping[str, Any]) -> Sequence[object]:
    name = f"{row['name']}[{row['count']}]" if row["count"] > 1 else row["name"]
    hooks = "/".join(row["hooks"]) + (" async" if row["asynchronous"] else "")
    return f"{row['offset']:#06x}", row["width"], row["policy"], _reset(row["reset"]), hooks, name, row["doc"]


def _reset(value: object) -> str:
    """A number in hexadecimal; bytes are too long for a line."""
    if isinstance(value, int):
        return f"{value:#x}"
    return "bytes"


def _capability(one: Mapping[str, Any]) -> Sequence[object]:
    return f"{one['offset']:#05x}", f"{one['id']:#04x}", one["length"], one["name"]


def _option(one: Mapping[str, Any]) -> Sequence[object]:
    default = "" if one["value"] == one["default"] else f" (default {_plain(one['default'])})"
    return one["key"], _plain(one["value"]) + default, one["legal"], one["doc"]


def _plain(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
