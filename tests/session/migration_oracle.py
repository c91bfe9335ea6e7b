"""What migration has to be, typed from the requirements (S3.2, S3.4, S3.5, S3.27): states, arcs, ways, in every offer.

Found by another search than the server's, from another table. It must not know the server's machine.
"""

from itertools import pairwise
from typing import NamedTuple

from vfuserver.vfio import MigrationFlags, MigrationState

S = MigrationState
F = MigrationFlags
Arcs = list[tuple[MigrationState, MigrationState]]

COMBINATIONS = (F.STOP_COPY, F.STOP_COPY | F.P2P, F.STOP_COPY | F.PRE_COPY, F.STOP_COPY | F.P2P | F.PRE_COPY)
GROUP = (S.STOP_COPY, S.PRE_COPY, S.PRE_COPY_P2P)


def direct(flags: MigrationFlags) -> set[tuple[MigrationState, MigrationState]]:
    """The direct arcs, typed from S3.4, in the way of its text: pairs both ways, then those of one way."""
    p2p, precopy = F.P2P in flags, F.PRE_COPY in flags
    both = [(S.STOP, S.STOP_COPY), (S.STOP, S.RESUMING)]
    both += [(S.RUNNING, S.RUNNING_P2P), (S.RUNNING_P2P, S.STOP)] if p2p else [(S.RUNNING, S.STOP)]
    arcs = {arc for one, other in both for arc in ((one, other), (other, one))}
    if precopy:
        arcs |= {(S.RUNNING, S.PRE_COPY), (S.PRE_COPY, S.RUNNING)}
        if not p2p:
            arcs.add((S.PRE_COPY, S.STOP_COPY))
    if precopy and p2p:
        for one in (S.PRE_COPY, S.RUNNING_P2P):
            arcs |= {(one, S.PRE_COPY_P2P), (S.PRE_COPY_P2P, one)}
        arcs.add((S.PRE_COPY_P2P, S.STOP_COPY))
    return arcs


def oracle(flags: MigrationFlags, old: MigrationState, new: MigrationState) -> Arcs | None:
    """The arcs of a request, or None: breadth first over sets of places, level by level, with what S3.5 says of a whole
    chain asked of each that arrives."""
    if old is S.ERROR or (old is S.STOP_COPY and new in GROUP[1:]):
        return None
    chains: list[list[MigrationState]] = [[old]]
    for _ in range(len(S)):
        arrived = [chain for chain in chains if chain[-1] is new and _decent(chain)]
        if arrived:
            assert len(arrived) == 1, f"{arrived} are equally short"
            return list(pairwise(arrived[0]))
        chains = [[*chain, after] for chain in chains for before, after in direct(flags) if before is chain[-1]]
    return None


def _decent(chain: list[MigrationState]) -> bool:
    inner = range(1, len(chain) - 1)
    return all(chain[n] not in GROUP or {chain[n - 1], chain[n + 1]} <= set(GROUP) for n in inner)


BOTH = {  # typed from the table of seed 003
    S.ERROR: 0b0110,
    S.STOP: 0b0000,
    S.RUNNING: 0b0001,
    S.STOP_COPY: 0b0010,
    S.RESUMING: 0b0100,
    S.RUNNING_P2P: 0b1001,
    S.PRE_COPY: 0b0011,
    S.PRE_COPY_P2P: 0b1011,
}
ASKED = {bits: where for where, bits in BOTH.items() if where is not S.ERROR} | {
    0b1000: S.STOP,
    0b1010: S.STOP_COPY,
    0b1100: S.RESUMING,
}


class Offer(NamedTuple):
    """A device and how its server offers what it can: P2P states `hidden` or not, by which versions of migration."""

    flags: MigrationFlags
    hidden: bool
    migration: str

    @property
    def name(self) -> str:
        """For a test's name."""
        return f"{self.flags.name}, {'hidden, ' if self.hidden else ''}{self.migration}"

    @property
    def told(self) -> MigrationFlags:
        """What a client sees. Version 1 knows no device without pre-copy: "must support the pre-copy state even for
        implementations where no data is provided to the user before the stop-and-copy state" (seed 003)."""
        told = self.flags | (F.PRE_COPY if self.migration in ("v1", "both") else F(0))
        return told & ~F.P2P if self.hidden else told

    @property
    def states(self) -> set[MigrationState]:
        """Those that a client may ask for."""
        return {state for arc in direct(self.told) for state in arc}

    @property
    def all_states(self) -> list[MigrationState]:
        """Those that the device may be found in."""
        return sorted({S.ERROR, *self.states, *(state for arc in direct(self.flags) for state in arc)})

    def plain(self, state: MigrationState) -> MigrationState:
        """Where the device is: without a pre-copy of its own it just runs."""
        return state if F.PRE_COPY in self.flags else PLAIN.get(state, state)

    def arcs(self, old: MigrationState, new: int) -> Arcs | None:
        """What the device has to do; None: EINVAL."""
        if new not in self.states:
            return None
        wanted = S(new)
        legal = oracle(self.flags | (self.told & F.PRE_COPY), old, wanted)
        return None if legal is None else oracle(self.flags, self.plain(old), self.plain(wanted))


PLAIN = {S.PRE_COPY: S.RUNNING, S.PRE_COPY_P2P: S.RUNNING_P2P}
OFFERS = [
    Offer(flags, hidden, migration)
    for flags in COMBINATIONS
    for hidden in (False, True)
    for migration in ("v2", "v1", "both")
]
