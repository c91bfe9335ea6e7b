"""Which of a client's files are what the client itself sees; only asked of clients that look like QEMU.

What the client's own mappings say settles a file when it is first needed; what they do not say, the first transfers
do (`iommu.Comparison`). It must not know messages.
"""

from typing import Final

from vfuserver import _core
from vfuserver._core import Ioas
from vfuserver.session.log import ConnectionLog
from vfuserver.session.peer import maps_shared

REMEDY: Final = (
    "the client has a private copy of the memory file with inode {inode}, so that its guest would never see what is "
    "written here: it is reached by messages from now on, slowly. Give the client share=on "
    "(-object memory-backend-file,...,share=on, or memory-backend-memfd)"
)


class FileTrust:
    """The files of one connection."""

    def __init__(self, ioas: Ioas, quirk: str, pid: int | None, log: ConnectionLog) -> None:
        """`quirk` is a value of private-memory; `pid` is the client's process, if it is known."""
        self._ioas = ioas
        self._quirk = quirk
        self._pid = pid if quirk == "auto" else None
        self._log = log
        self._looked_at: set[int] = set()
        if quirk == "messages":
            ioas.new_files = _core.REFUSED

    def doubt(self) -> None:
        """From now on a file must be proven, unless the quirk says what it is. Before the first one is mapped."""
        if self._quirk in ("auto", "compare"):
            self._ioas.new_files = _core.UNPROVEN

    def look(self) -> bool:
        """Settles files that are new since the last look, as far as the client's mappings tell; whether any was."""
        new = [
            source
            for source, _, trust in self._ioas.files()
            if trust == _core.UNPROVEN and source not in self._looked_at
        ]
        self._looked_at.update(new)
        settled = [self._judge(source) for source in new]
        return any(settled)

    def settled(self, source: int, proven: bool, iova: int) -> None:
        """A transfer at `iova` has settled it (an `iommu.Verdict`)."""
        if proven:
            self._log.info("the memory file at %#x is shared with the client: a transfer proved it", iova)
        else:
            self._log.error(REMEDY.format(inode=self._file(source)[1]) + "; a transfer at %#x differed", iova)

    def _judge(self, source: int) -> bool:
        device, inode = self._file(source)
        shared = None if self._pid is None else maps_shared(self._pid, device, inode)
        if shared is None:
            self._log.info("the memory file with inode %d is not proven to be shared: transfers are compared", inode)
            return False
        self._ioas.trust(source, _core.TRUSTED if shared else _core.REFUSED)
        if not shared:
            self._log.error(REMEDY.format(inode=inode))
        return True

    @staticmethod
    def _file(source: int) -> tuple[int, int]:
        """(device, inode)."""
        return next((s["device"], s["inode"]) for s in _core.sources() if s["id"] == source)
