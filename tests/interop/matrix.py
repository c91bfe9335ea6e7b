"""The interop matrix as a document: `python -m tests.interop.matrix RESULTS DOCUMENT`.

One table for each peer: a row for each of ours and each version of the peer, a column for everything that they do.
Whatever is not green has a number, and its reasons below the table. It must not know how results come about (`cells`).
"""

import re
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Final

from tests.interop.cells import Cell, Result, load

HEAD: Final = """\
# With whom it was run

Generated from `interop.json` by `make interop`, which runs every cell whose peer is there and replaces what it has run
(CONTRIBUTING says which variables name the peers). Green: everything that the cell's tests ask for came out. Red: it
did not, for the reason below the table, which names an issue of the peer, a commit or a line of its source. A number
behind a result counts the tests that passed.

Ours is a server (of our own engine, vfuserver, or of `--engine libvfio-user`), our client, the configuration space of a
device, or both engines one after the other in the same guest, whose outputs are compared line by line.
"""

EXPLAINED: Final = re.compile(r"#\d+|issue \d+|\w\.[ch]:\d+")


def document(cells: Iterable[Cell]) -> str:
    """The whole page."""
    ordered = sorted(cells, key=lambda cell: cell.peer)
    return "\n".join([HEAD, *(_section(peer, list(group)) for peer, group in groupby(ordered, lambda c: c.peer))])


def _section(peer: str, cells: list[Cell]) -> str:
    columns = list(dict.fromkeys(cell.what for cell in cells))
    rows = sorted({(cell.ours, cell.version) for cell in cells})
    found = {(cell.ours, cell.version, cell.what): cell for cell in cells}
    notes: list[str] = []
    lines = [f"## {peer}", "", _line("ours", "version", *columns), _line(*["---"] * (len(columns) + 2))]
    for ours, version in rows:
        shown = (_shown(found.get((ours, version, what)), notes) for what in columns)
        lines.append(_line(ours, version or "-", *shown))
    return "\n".join([*lines, "", *_numbered(notes)])


def _shown(cell: Cell | None, notes: list[str]) -> str:
    """What a place of the table says; `notes` grows by reasons that it does not have yet."""
    if cell is None:
        return ""
    text = f"{cell.result} ({cell.passed})" if cell.passed else str(cell.result)
    if cell.result is Result.GREEN:
        return text
    reason = "; ".join(cell.reasons)
    if reason not in notes:
        notes.append(reason)
    return f"{text} [{notes.index(reason) + 1}]"


def _line(*places: str) -> str:
    return f"| {' | '.join(place.replace('|', chr(92) + '|') for place in places)} |"


def _numbered(notes: list[str]) -> Iterator[str]:
    for number, note in enumerate(notes, 1):
        yield f"{number}. {note}"
    if notes:
        yield ""


def unexplained(cells: Iterable[Cell]) -> list[Cell]:
    """Red ones of which no reason names an issue or a line of a source."""
    return [cell for cell in cells if cell.result is Result.RED and not all(map(EXPLAINED.search, cell.reasons))]


def main() -> int:
    """Writes the document; 1 if something is red and nobody has said why."""
    results, target = map(Path, sys.argv[1:])
    cells = load(results)
    target.write_text(document(cells))
    for cell in (open_questions := unexplained(cells)):
        print(f"red, and no issue or line of a source says why: {', '.join(cell.key)}: {'; '.join(cell.reasons)}")
    return bool(open_questions)


if __name__ == "__main__":
    sys.exit(main())
