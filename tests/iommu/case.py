"""What a case of the table is. It must not know any implementation."""

from dataclasses import dataclass, field
from typing import Any, Final

ANY: Final = object()
"""A result that is not looked at."""


@dataclass(frozen=True)
class Step:
    """One call and what it must come to: `error` (an errno), or else the result."""

    call: str
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    gives: Any = ANY
    error: int = 0


@dataclass(frozen=True)
class Case:
    """What happens, by clause. Where an implementation differs, it is in the outcome of the last step."""

    clause: str
    title: str
    steps: tuple[Step, ...]


def do(call: str, *arguments: Any, gives: Any = ANY, error: int = 0, **options: Any) -> Step:
    return Step(call, arguments, options, gives, error)


def case(clause: str, title: str, *steps: Step) -> Case:
    return Case(clause, title, steps)
