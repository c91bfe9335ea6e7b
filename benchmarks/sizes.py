"""What both ends of the migration cases agree on, in bytes."""

from typing import Final

MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

LARGE: Final = 64 * MIB
"""The region that is saved and loaded."""
SMALL: Final = MIB
"""The state that is moved in a blackout."""
BITMAP: Final = 16 * MIB
"""Of one dirty report, at most."""
AREAS: Final = TIB // GIB
"""Of the client's memory whose dirty pages are asked for: one at each GiB."""
AREA: Final = MIB
"""Bytes of each."""
