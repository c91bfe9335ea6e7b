"""A run as a picture: every figure with a target, as a part of that target, so that all have one axis.

matplotlib (the extra `bench`) draws it, and is imported when it does.
"""

from pathlib import Path

import click

from benchmarks.figure import Figure
from benchmarks.result import Result

HOW = "no plot, as matplotlib is not installed: pip install 'vfuserver[bench]'"
MET, MISSED = "tab:green", "tab:red"


def draw(result: Result, path: Path) -> None:
    """Writes `path`, an SVG or PNG by its name. ImportError: matplotlib is not there, see HOW."""
    from matplotlib.figure import Figure as Sheet

    named = {
        f"{room}: {figure.name}": figure
        for room, figures in result.rooms.items()
        for figure in figures
        if figure.target
    }
    bars = [_of_target(figure) for figure in named.values()]
    sheet = Sheet(figsize=(16, 1.5 + 0.3 * len(bars)), layout="constrained")
    axes = sheet.subplots()
    axes.barh(
        [f"{name} {figure.target}" for name, figure in named.items()],
        [value for value, _, _ in bars],
        xerr=[[value - low for value, low, _ in bars], [high - value for value, _, high in bars]],
        color=[MISSED if figure.missed else MET for figure in named.values()],
    )
    axes.axvline(1.0, color="black", linewidth=1)
    axes.invert_yaxis()
    sheet.supxlabel("part of the target: what ends left of 1 has met it; lines: half of the rounds")
    sheet.suptitle(f"vfuserver {result.commit}, {result.date}, {result.machine.get('processor', '')}")
    sheet.savefig(path)


def _of_target(figure: Figure) -> tuple[float, float, float]:
    """The value and its spread as parts of the target, turned round if it is a least one."""
    low, high = figure.spread
    if figure.most is not None:
        return _part(figure.value, figure.most), _part(low, figure.most), _part(high, figure.most)
    assert figure.least is not None
    return _part(figure.least, figure.value), _part(figure.least, high), _part(figure.least, low)


def _part(value: float, whole: float) -> float:
    """Of nothing, nothing is the whole, and all else twice as much: it can only be met or missed."""
    if whole:
        return value / whole
    return 2.0 if value else 1.0


@click.command(help="`python -m benchmarks.plot RESULT.json PICTURE.svg`: the plot of a run, again, or as a PNG.")
@click.argument("result", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("picture", type=click.Path(dir_okay=False, path_type=Path))
def main(result: Path, picture: Path) -> None:
    """Draws it. Exits with 1 if matplotlib is not there."""
    try:
        draw(Result.load(result), picture)
    except ImportError:
        raise click.ClickException(HOW) from None


if __name__ == "__main__":
    main()
