"""Jobs: work that outlives a register access, declared so that it can be stopped, saved and started again.

A coroutine's frame cannot be saved, so a job is its name and its arguments; what it has achieved is in registers and
`State`. It runs only while the device runs, is held at its next await when the device stops, is ended by reset, and is
started again from its arguments after a load. A client's disconnect makes its DMA fail with ENODEV.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Self, overload

from vfuserver.device.activity import Activity
from vfuserver.device.run import Run
from vfuserver.device.state import PLAIN_NAMES, is_plain
from vfuserver.errors import DeclarationError, LocalError

P = ParamSpec("P")

_PLAIN_ANNOTATIONS = {"int", "bool", "float", "str", "bytes", "bytearray", "list", "tuple", "dict", "None"}


class Job(Generic[P]):
    """A declared job, made by the decorator `job`. On an instance: a BoundJob."""

    def __init__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, None]], *, several: bool) -> None:
        self.function = function
        self.several = several
        self.name = function.__name__
        self.doc = inspect.getdoc(function) or ""

    def check(self, where: str) -> None:
        """DeclarationError unless it is an `async def` whose arguments can be saved."""
        if not inspect.iscoroutinefunction(self.function):
            raise DeclarationError(f"{where}: a job must be an `async def`, not a plain function")
        if where.rpartition(".")[2] != self.name:
            raise DeclarationError(f"{where}: a job must keep its function's name, {self.name}, not another one")
        for parameter in list(inspect.signature(self.function).parameters.values())[1:]:
            self._check_parameter(where, parameter)

    def _check_parameter(self, where: str, parameter: inspect.Parameter) -> None:
        if parameter.annotation is inspect.Parameter.empty:
            return
        kind = parameter.annotation
        name = kind.split("[")[0].strip() if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
        if name not in _PLAIN_ANNOTATIONS:
            raise DeclarationError(
                f"{where}: the argument {parameter.name} must be plain data ({PLAIN_NAMES}), so that the job can be "
                f"started again after a load, not {name}"
            )

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> BoundJob[P]: ...
    def __get__(self, instance: object | None, owner: type) -> Self | BoundJob[P]:
        """The declaration on the class; an instance's own attribute wins over this descriptor."""
        return self

    def bind(self, device: object, activity: Activity) -> BoundJob[P]:
        """This job of one device."""
        return BoundJob(self, device, activity)


class BoundJob(Generic[P]):
    """One device's job: start it, ask whether it runs, cancel it."""

    def __init__(self, declared: Job[P], device: object, activity: Activity) -> None:
        self._job = declared
        self._device = device
        self._activity = activity
        self._runs: dict[int, tuple[Run, tuple[Any, ...]]] = {}
        self._next = 0

    @property
    def running(self) -> bool:
        """True from start() until it has finished or was cancelled; also while it is held."""
        return bool(self._runs)

    @property
    def count(self) -> int:
        """How many of it there are, those that are held included."""
        return len(self._runs)

    def start(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Starts it with plain data as arguments; it begins after the present access has been answered.

        LocalError if it runs already (unless `several`), or if an argument is not plain data.
        """
        if self._runs and not self._job.several:
            raise LocalError(f"{self._name} is running: ask {self._job.name}.running first, or declare several=True")
        bound = inspect.signature(self._job.function).bind(self._device, *args, **kwargs)
        bound.apply_defaults()
        self.start_with(bound.args[1:])

    def start_with(self, args: tuple[Any, ...]) -> None:
        """Starts it with arguments from a snapshot; as start()."""
        if not all(map(is_plain, args)):
            raise LocalError(f"{self._name}: arguments must be plain data ({PLAIN_NAMES}), not {args!r}")
        key, self._next = self._next, self._next + 1
        coroutine = self._job.function(self._device, *args)  # type: ignore[call-arg]
        run = self._activity.start(coroutine, f"job {self._job.name}", lambda _: self._forget(key))
        self._runs[key] = run, args

    def cancel(self) -> None:
        """Ends it at once; its `finally` blocks run."""
        runs, self._runs = self._runs, {}
        for run, _ in runs.values():
            self._activity.end(run)

    def saved(self) -> list[list[Any]]:
        """The arguments of every run, oldest first: what a load starts it with."""
        return [list(args) for _, args in self._runs.values()]

    @property
    def _name(self) -> str:
        return f"{self._activity.owner}: job {self._job.name}"

    def _forget(self, key: int) -> None:
        self._runs.pop(key, None)


@overload
def job(function: Callable[Concatenate[Any, P], Coroutine[Any, Any, None]], /) -> Job[P]: ...
@overload
def job(*, several: bool = False) -> Callable[[Callable[Concatenate[Any, P], Coroutine[Any, Any, None]]], Job[P]]: ...
def job(function: Any = None, /, *, several: bool = False) -> Any:
    """Declares an async method as a job: `@job`, or `@job(several=True)` if many may run at a time.

    Start it with `self.NAME.start(...)`. Its arguments must be plain data. DeclarationError at class creation.
    """
    if function is not None:
        return Job(function, several=several)
    return lambda decorated: Job(decorated, several=several)
