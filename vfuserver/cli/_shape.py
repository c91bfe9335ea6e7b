"""What two devices must have in common for one to take the other's state: seen from outside, over the wire.

A shape is plain data, ready for JSON. It must not know what the state itself holds: the server verifies that.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from vfuserver.cli._table import size
from vfuserver.vfio import PCI_NUM_REGIONS

Shape = Mapping[str, Any]

PCI_IDS: Final = ("vendor", "device", "revision", "class_code", "subsystem_vendor", "subsystem")
ABSENT: Final = "absent"
_DIGITS: Final = {"revision": 2, "class_code": 6}


def shape(found: Mapping[str, Any]) -> dict[str, Any]:
    """The shape in what `_probing.ask` has found: PCI identity, sizes of regions, numbers of vectors.

    Device-specific regions are no part of it: one may be a second way to the state itself.
    """
    pci = found["pci"]
    return {
        "pci": {key: pci[key] for key in PCI_IDS} if pci else None,
        "regions": {_label(one): one["size"] for one in found["regions"][:PCI_NUM_REGIONS] if one.get("size")},
        "irqs": {_label(one): one["count"] for one in found["irqs"] if one.get("count")},
    }


def checked(found: Mapping[str, Any]) -> dict[str, Any]:
    """A shape that was read from somewhere. KeyError, TypeError, ValueError: it is none."""
    pci = found["pci"]
    return {
        "pci": {key: int(pci[key]) for key in PCI_IDS} if pci else None,
        "regions": {str(name): int(count) for name, count in dict(found["regions"]).items()},
        "irqs": {str(name): int(count) for name, count in dict(found["irqs"]).items()},
    }


def differences(expected: Shape, other: Shape) -> list[str]:
    """What keeps `other` from being like `expected`, one phrase each; none: they are alike."""
    ours, theirs = dict(rows(expected)), dict(rows(other))
    return [
        f"{name} is {theirs.get(name, ABSENT)}, must be {ours.get(name, ABSENT)}"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]


def rows(one: Shape) -> Iterator[tuple[str, str]]:
    """A shape for people: name and value."""
    for key, number in (one["pci"] or {}).items():
        yield key.replace("_", " "), f"{number:0{_DIGITS.get(key, 4)}x}"
    for name, bytes_ in one["regions"].items():
        yield name, size(bytes_)
    for name, count in one["irqs"].items():
        yield name, f"{count} vector{'s' * (count != 1)}"


def _label(one: Mapping[str, Any]) -> str:
    return one["name"] or f"number {one['index']}"
