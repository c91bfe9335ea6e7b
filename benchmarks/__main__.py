"""`python -m benchmarks [--rounds N] [--json FILE]`: the wire cases side by side with the bare echo."""

import json
import sys
from pathlib import Path
from typing import IO

import click

from benchmarks.wire import CASES, Result, run


@click.command(help=__doc__)
@click.option("--rounds", default=9, show_default=True, help="How often each case is timed; the medians count.")
@click.option("--json", "file", type=click.File("w"), help="Also write the figures to this file.")
@click.option("--keep", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
def main(rounds: int, file: IO[str] | None, keep: Path) -> None:
    """Runs every case, prints the table, and exits with 1 if a target was missed."""
    with click.progressbar(length=rounds, label="rounds", file=sys.stderr) as bar:
        results = run(rounds, bar.update)
    click.echo(table(results))
    figures = [result.figures() for result in results]
    keep.mkdir(parents=True, exist_ok=True)
    (keep / "wire.json").write_text(json.dumps(figures, indent=2) + "\n")
    if file is not None:
        json.dump(figures, file, indent=2)
    sys.exit(any(result.missed for result in results))


def table(results: list[Result]) -> str:
    """The results for a person: nanoseconds, ratio to the echo's round trip, target."""
    lines = [f"{'case':<44} {'ns':>8} {'ratio':>7} {'target':>7}"]
    for result in results:
        verdict = "" if result.case.target is None else "  MISSED" if result.missed else "  ok"
        target = "" if result.case.target is None else f"{result.case.target:.3f}"
        lines.append(f"{result.case.name:<44} {result.median:>8.0f} {result.ratio:>7.3f} {target:>7}{verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    assert CASES
    main()
