"""The table of cases against every address space that there is (S4.28).

Its rows are of S1.5, S1.10, S1.12, S3.18, S3.19, S3.21, S4.2, S4.4, S4.5, S4.6, S4.8.
"""

import errno
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.iommu.backend import Backend
from tests.iommu.case import ANY, Case, Step
from tests.iommu.cases import CASES
from tests.iommu.core import Core

BACKENDS: Final[dict[str, Callable[[], Backend]]] = {"core": Core}
DIFFERENCES: Final[dict[str, dict[str, dict[str, str]]]] = tomllib.loads(
    Path(__file__).with_name("differences.toml").read_text()
)


@pytest.fixture(params=BACKENDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def backend(name: str) -> Iterator[Backend]:
    made = BACKENDS[name]()
    yield made
    made.close()


def expected(name: str, title: str) -> Case:
    """A case as this implementation is known to behave."""
    case, difference = CASES[title], DIFFERENCES.get(name, {}).get(title)
    if difference is None:
        return case
    return replace(case, steps=(*case.steps[:-1], replace(case.steps[-1], error=getattr(errno, difference["error"]))))


def outcome(backend: Backend, step: Step) -> tuple[Any, int]:
    try:
        return getattr(backend, step.call)(*step.arguments, **step.options), 0
    except OSError as error:
        return None, error.errno or 0


@pytest.mark.parametrize("title", CASES)
def test_case(backend: Backend, name: str, title: str) -> None:
    for number, step in enumerate(expected(name, title).steps):
        if step.call in backend.lacks:
            pytest.skip(f"{name} has no {step.call}")
        result, error = outcome(backend, step)
        assert error == step.error, f"step {number}: {step}"
        assert step.error or step.gives is ANY or result == step.gives, f"step {number}: {step}"


def test_every_difference_is_one() -> None:
    """Of a backend and a case that exist, and to another error."""
    assert set(DIFFERENCES) <= set(BACKENDS)
    for name, differences in DIFFERENCES.items():
        assert set(differences) <= set(CASES)
        assert [title for title in differences if expected(name, title) == CASES[title]] == []
