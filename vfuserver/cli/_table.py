"""Tables and names for people: plain text, the same on a terminal and in a pipe. It must not know what it shows."""

from collections.abc import Iterable, Sequence
from enum import IntFlag

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "") -> str:
    """Columns as wide as they need to be, two spaces apart; columns that are empty everywhere are left out."""
    texts = [[str(cell) for cell in row] for row in rows]
    kept = [column for column in range(len(heads)) if any(row[column] for row in texts)]
    lines = [[heads[column] for column in kept], *([row[column] for column in kept] for row in texts)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(kept))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(f"{indent}{line}".rstrip() for line in padded)


def size(count: int) -> str:
    """Bytes in the largest unit that divides them."""
    for unit, name in _UNITS:
        if count and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} byte{'s' * (count != 1)}"


def flags(value: IntFlag) -> list[str]:
    """The names of the bits that are set, and the rest as a number."""
    known = [one for one in type(value) if one in value]
    rest = int(value) & ~sum(int(one) for one in known)
    return [str(one.name) for one in known] + ([f"{rest:#x}"] if rest else [])
