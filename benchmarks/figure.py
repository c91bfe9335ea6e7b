"""One figure: what was measured, in which unit, what it must be, and how much it differed between rounds."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` in `unit`; `most` or `least` is its target, neither: it is only shown.

    A name that begins with spaces goes on from the figure above it. `low` and `high` are the quartiles of the rounds,
    None: there was one round.
    """

    name: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def missed(self) -> bool:
        """True if there is a target and the value is on its wrong side."""
        return (self.most is not None and self.value > self.most) or (
            self.least is not None and self.value < self.least
        )

    @property
    def target(self) -> str:
        """As a person reads it."""
        if self.most is not None:
            return f"<= {self.most:.4g}"
        return "" if self.least is None else f">= {self.least:.4g}"

    @property
    def spread(self) -> tuple[float, float]:
        """Between what half of the rounds lie."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)


def over(rounds: Iterable[Sequence[Figure]]) -> list[Figure]:
    """What each round alone would have said, as one: the medians, and between which values half of the rounds lie.

    So a ratio is the median of every round's own ratio: a machine that is busy for a while slows both of its sides.
    ValueError: they did not measure the same in the same order.
    """
    return [_median(figures) for figures in zip(*rounds, strict=True)]


def _median(figures: Sequence[Figure]) -> Figure:
    names = {figure.name for figure in figures}
    if len(names) != 1:
        raise ValueError(f"every round must measure the same in the same order, not {sorted(names)} at one place")
    values = [figure.value for figure in figures]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return replace(figures[0], value=middle, low=low, high=high)


def with_full_names(figures: Iterable[Figure]) -> list[Figure]:
    """The same, each with a name that says it all. ValueError: two have one name."""
    found: dict[str, Figure] = {}
    above = ""
    for figure in figures:
        continued = figure.name.startswith(" ")
        name = f"{above}: {figure.name.strip()}" if continued else figure.name
        above = above if continued else figure.name
        if name in found:
            raise ValueError(f"two figures are named {name!r}; a result finds them by name")
        found[name] = replace(figure, name=name)
    return list(found.values())


def table(figures: list[Figure]) -> str:
    """The figures for a person."""
    lines = [f"{'what':<76} {'median':>10} {'':<5} {'half of the rounds':>21} {'target':>9}"]
    for figure in figures:
        verdict = "" if not figure.target else "  MISSED" if figure.missed else "  ok"
        low, high = figure.spread
        spread = f"{low:>10.3f} {high:>10.3f}"
        lines.append(
            f"{figure.name:<76} {figure.value:>10.3f} {figure.unit:<5} {spread} {figure.target:>9}{verdict}".rstrip()
        )
    return "\n".join(lines)
