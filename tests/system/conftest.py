from collections.abc import Iterator

import pytest

from tests.leaks import nothing_left_behind


@pytest.fixture(autouse=True, scope="module")
def nothing_leaks() -> Iterator[None]:
    """One guest serves many tests, so what is counted is counted around all of them."""
    with nothing_left_behind():
        yield
