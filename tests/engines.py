"""What serves in the tests that any engine can serve, and which of them see a difference.

VFUSERVER_TEST_ENGINE says what serves; without it, our own. VFUSERVER_TEST_POLL says how that polls (`dedicated`: each
device has a thread of its own). An entry of the file of differences is a test's name from this folder on, as pytest
prints it: it stands for every name that begins with it, and its stars for anything. What is expected to differ must
differ: an entry that is no longer true is an error.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from vfuserver.engine.choice import DEFAULT

CHOSEN: Final = os.environ.get("VFUSERVER_TEST_ENGINE", DEFAULT)
POLLED: Final = os.environ.get("VFUSERVER_TEST_POLL", "auto")
TESTS: Final = Path(__file__).parent
DIFFERENCES: Final = {"libvfio-user": TESTS / "interop" / "libvfio_user.toml"}


def expect_differences(items: list[pytest.Item]) -> None:
    """What is known to differ on the engine that serves is expected to; nothing is, on our own."""
    if CHOSEN in DIFFERENCES:
        for one in tomllib.loads(DIFFERENCES[CHOSEN].read_text())["difference"]:
            _expect(items, re.compile("|".join(map(_pattern, one["tests"]))), one)


def _expect(items: list[pytest.Item], names: re.Pattern[str], one: dict[str, object]) -> None:
    for item in items:
        if names.match(_name(item)):
            run, strict = bool(one.get("run", True)), not one.get("sometimes", False)
            item.add_marker(pytest.mark.xfail(reason=str(one["reason"]), run=run, strict=strict))


def _name(item: pytest.Item) -> str:
    inside = item.path.relative_to(TESTS).as_posix() if TESTS in item.path.parents else ""
    return f"{inside}::{item.nodeid.partition('::')[2]}"


def _pattern(entry: str) -> str:
    return re.escape(entry).replace(r"\*", ".*")
