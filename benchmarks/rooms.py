"""What can be measured: every module of this folder with a `run(rounds, progress)` is a room, and no list names it."""

import importlib
import pkgutil
from collections.abc import Callable

import benchmarks
from benchmarks.figure import Figure

Room = Callable[[int, Callable[[int], None]], list[Figure]]
"""Times everything `rounds` times, tells `progress` of each round (1), and says what came of it."""


def rooms() -> dict[str, Room]:
    """By name, in alphabetical order."""
    names = (module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_"))
    found = {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    return {name: module.run for name, module in found.items() if hasattr(module, "run")}
