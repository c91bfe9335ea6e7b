"""`python -m benchmarks.speed`: has the hot path become much slower? What `make test` asks, in some seconds.

The ratios of the room `wire` to a bare echo in the same run, which a busy machine changes little; each may be MARGIN
times its target. What goes beyond that is measured once more, and fails if it does so again.
"""

import os
import sys
from dataclasses import replace
from typing import Final

import click

from benchmarks import wire
from benchmarks.figure import Figure, table

MARGIN: Final = 2.5
ROUNDS: Final = 5
TRIES: Final = 2


def limited(figures: list[Figure]) -> list[Figure]:
    """The same, with limits instead of targets."""
    return [figure if figure.most is None else replace(figure, most=MARGIN * figure.most) for figure in figures]


@click.command(help=__doc__)
def main() -> None:
    """Prints what was measured, each time; exits with 1 if it was too slow twice."""
    if len(os.sched_getaffinity(0)) < 2:
        click.echo("speed: not measured, as two sides that poll need a processor each")
        return
    for _ in range(TRIES):
        figures = limited(wire.run(ROUNDS, lambda _: None, alone=True))
        click.echo(table(figures))
        if not any(figure.missed for figure in figures):
            return
        click.echo(f"speed: slower than {MARGIN:g} times the target; measured {TRIES} times before that counts")
    sys.exit(1)


if __name__ == "__main__":
    main()
