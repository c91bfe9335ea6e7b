"""The owner of descriptors that came with a message: whatever nobody takes is closed.

It must not know what the descriptors are.
"""

import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self


class Descriptors:
    """Owns file descriptors until they are taken; closes the rest when its `with` block ends."""

    __slots__ = ("_fds",)

    def __init__(self, fds: Sequence[int] = ()) -> None:
        self._fds = list(fds)

    def __len__(self) -> int:
        return len(self._fds)

    def __getitem__(self, index: int) -> int:
        return self._fds[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._fds)

    def take(self) -> list[int]:
        """All of them; they are the caller's from now on."""
        taken, self._fds = self._fds, []
        return taken

    def close(self) -> None:
        """Closes what is left. Idempotent."""
        for fd in self.take():
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
