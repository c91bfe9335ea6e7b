"""One figure: what was measured, in which unit, and what it must be. Medians are taken by whoever measures."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` in `unit`; `most` or `least` is its target, neither: it is only shown."""

    name: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None

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
            return f"<= {self.most:g}"
        return "" if self.least is None else f">= {self.least:g}"

    def as_json(self) -> dict[str, object]:
        """For --json."""
        return asdict(self)
