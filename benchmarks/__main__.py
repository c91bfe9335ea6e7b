"""`python -m benchmarks [ROOM...] [--rounds N] [--json FILE]`: the wire and the engine beside a bare echo and, where
LIBVFIO_USER_SO names it, libvfio-user; client memory beside plain memory, a device's state beside a plain socket copy,
start-up beside a bare Python, and what else has a room."""

import sys
from pathlib import Path
from typing import IO

import click

from benchmarks import plot
from benchmarks.figure import Figure, table
from benchmarks.result import Result
from benchmarks.rooms import rooms as all_rooms

ROOMS = all_rooms()


@click.command(help=__doc__)
@click.argument("rooms", nargs=-1, type=click.Choice(list(ROOMS)))
@click.option("--rounds", default=9, show_default=True, help="How often each case is timed; the medians count.")
@click.option("--json", "file", type=click.File("w"), help="Also write the result to this file.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    default=Path("benchmarks/results"),
    show_default=True,
    help="The folder for the result, a file for each run, and its plot.",
)
def main(rooms: tuple[str, ...], rounds: int, file: IO[str] | None, keep: Path) -> None:
    """Runs the rooms (all, unless some are named), prints a table of each, and exits with 1 if a target was missed."""
    figures: dict[str, list[Figure]] = {}
    for room in rooms or ROOMS:
        with click.progressbar(length=rounds, label=room, file=sys.stderr) as bar:
            figures[room] = ROOMS[room](rounds, bar.update)
        click.echo(table(figures[room]))
    result = Result.of(figures, rounds)
    path = result.save(keep)
    click.echo(f"result: {path}\n{_plotted(result, path.with_suffix('.svg'))}")
    if file is not None:
        file.write(result.as_json())
    sys.exit(any(figure.missed for found in figures.values() for figure in found))


def _plotted(result: Result, path: Path) -> str:
    try:
        plot.draw(result, path)
    except ImportError:
        return plot.HOW
    return f"plot: {path}"


if __name__ == "__main__":
    main()
