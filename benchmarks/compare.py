"""`python -m benchmarks.compare BEFORE.json AFTER.json`: each figure of two runs, and which ones changed.

A figure has changed if the ranges in which half of the rounds lie (from quartile to quartile) do not meet.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from benchmarks.figure import Figure
from benchmarks.result import Result


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both runs; None where a run has not measured it. `change` is empty if it is within the spread."""

    room: str
    name: str
    unit: str
    before: float | None
    after: float | None
    ratio: float | None
    change: str


def rows(before: Result, after: Result) -> Iterator[Row]:
    """Every figure of either run, in the order of the second one; those that it has not are last."""
    old, new = _by_name(before), _by_name(after)
    for room, name in {**new, **old}:
        yield _row(room, name, old.get((room, name)), new.get((room, name)))


def _by_name(result: Result) -> dict[tuple[str, str], Figure]:
    return {(room, figure.name): figure for room, figures in result.rooms.items() for figure in figures}


def _row(room: str, name: str, old: Figure | None, new: Figure | None) -> Row:
    if new is None or old is None:
        before, after = (figure.value if figure else None for figure in (old, new))
        unit = next(figure.unit for figure in (old, new) if figure)
        return Row(room, name, unit, before, after, None, "only before" if old else "only after")
    ratio = new.value / old.value if old.value else None
    return Row(room, name, new.unit, old.value, new.value, ratio, _change(old, new))


def _change(old: Figure, new: Figure) -> str:
    (old_low, old_high), (new_low, new_high) = old.spread, new.spread
    if new_low <= old_high and old_low <= new_high:
        return ""
    more = new.value > old.value
    if new.most is None and new.least is None:
        return "more" if more else "less"
    return "worse" if more == (new.most is not None) else "better"


def table(found: list[Row]) -> str:
    """The rows for a person."""
    lines = [f"{'room':<10} {'what':<76} {'before':>11} {'after':>11} {'unit':<5} {'ratio':>6}"]
    for row in found:
        numbers = [f"{'-' if value is None else f'{value:.3f}':>11}" for value in (row.before, row.after)]
        ratio = f"{'-' if row.ratio is None else f'{row.ratio:.2f}':>6}"
        lines.append(f"{row.room:<10} {row.name:<76} {' '.join(numbers)} {row.unit:<5} {ratio}  {row.change}".rstrip())
    return "\n".join(lines)


@click.command(help=__doc__)
@click.argument("before", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="A list of objects instead of a table.")
def main(before: Path, after: Path, as_json: bool) -> None:
    """Prints the comparison. Exits with 2 if a file is none of a run."""
    results = [_loaded(path) for path in (before, after)]
    found = list(rows(*results))
    if as_json:
        click.echo(json.dumps([asdict(row) for row in found], indent=2))
        return
    for word, result in zip(("before", "after"), results, strict=True):
        click.echo(f"{word + ':':<8}{result.date}  {result.commit}  {result.machine.get('processor')}")
    click.echo(table(found))


def _loaded(path: Path) -> Result:
    try:
        return Result.load(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise click.UsageError(f"{path} is no result of `python -m benchmarks`: {error!r}") from None


if __name__ == "__main__":
    main()
