"""`python -m benchmarks [--rounds N] [--json FILE]`: the wire and the engine beside a bare echo, client memory beside
plain memory, a device's state beside a plain socket copy, start-up beside a bare Python, and what else has a room."""

import json
import sys
from pathlib import Path
from typing import IO

import click

from benchmarks.figure import Figure
from benchmarks.rooms import rooms as all_rooms

ROOMS = all_rooms()


@click.command(help=__doc__)
@click.argument("rooms", nargs=-1, type=click.Choice(list(ROOMS)))
@click.option("--rounds", default=9, show_default=True, help="How often each case is timed; the medians count.")
@click.option("--json", "file", type=click.File("w"), help="Also write the figures to this file.")
@click.option("--keep", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
def main(rooms: tuple[str, ...], rounds: int, file: IO[str] | None, keep: Path) -> None:
    """Runs the rooms (all, unless some are named), prints a table of each, and exits with 1 if a target was missed."""
    results: dict[str, list[Figure]] = {}
    for room in rooms or ROOMS:
        with click.progressbar(length=rounds, label=room, file=sys.stderr) as bar:
            results[room] = ROOMS[room](rounds, bar.update)
        click.echo(table(results[room]))
    listed = {room: [figure.as_json() for figure in figures] for room, figures in results.items()}
    keep.mkdir(parents=True, exist_ok=True)
    for room, figures in listed.items():
        (keep / f"{room}.json").write_text(json.dumps(figures, indent=2) + "\n")
    if file is not None:
        json.dump(listed, file, indent=2)
    sys.exit(any(figure.missed for figures in results.values() for figure in figures))


def table(figures: list[Figure]) -> str:
    """The figures for a person."""
    lines = [f"{'what':<58} {'median':>10} {'':<5} {'target':>8}"]
    for figure in figures:
        verdict = "" if not figure.target else "  MISSED" if figure.missed else "  ok"
        lines.append(f"{figure.name:<58} {figure.value:>10.3f} {figure.unit:<5} {figure.target:>8}{verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
