"""What there is of client memory in this process: address spaces and accesses, by id, for whoever looks or closes.

Ids are above 0 and never used twice. What is used by something else cannot be destroyed: EBUSY; an id that does not
exist, or is another kind's, is ENOENT (S4.1, S4.2). An area has no id of its own: it is a space's, at an IOVA. Page
sources have the core's ids; they come and go with the areas that use them, so destroying one is EBUSY or ENOENT.

It must not know sessions or devices: whoever makes a space gives it here with a name, and destroys it in the end.
"""

import errno
import sys
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import Any, Final

from vfuserver import _core
from vfuserver._core import PROT_READ, PROT_WRITE, Ioas
from vfuserver.errors import CommandError
from vfuserver.iommu.access import Access
from vfuserver.iommu.area import AreaAccess
from vfuserver.iommu.views import View

TRUST: Final = {_core.TRUSTED: "trusted", _core.UNPROVEN: "unproven", _core.REFUSED: "refused"}
AREAS_OF_A_VIEW: Final = 16
"""Areas of one view whose sources a dump looks for."""


class Kind(StrEnum):
    """What an id stands for."""

    IOAS = "ioas"
    ACCESS = "access"
    SOURCE = "source"


@dataclass(frozen=True, slots=True)
class _Object:
    kind: Kind
    name: str
    thing: Ioas | Access
    uses: int = 0
    """The id of the space behind an access."""


class Context:
    """Address spaces and accesses by id. Threads of devices come and go with theirs: who looks, looks at a copy."""

    def __init__(self) -> None:
        self._objects: dict[int, _Object] = {}
        self._ids = count(1)

    def add_ioas(self, ioas: Ioas, name: str) -> int:
        """Takes a space in; its id. `name` says whose it is."""
        return self._add(_Object(Kind.IOAS, name, ioas))

    def add_access(self, access: Access, ioas: int) -> int:
        """Takes an access to a space in; its id. CommandError: ENOENT (no such space), EINVAL (it is to another)."""
        space = self._find(Kind.IOAS, ioas)
        if access.ioas is not space.thing:
            raise CommandError(errno.EINVAL, f"{access.who}: must be an access to ioas {ioas} ({space.name})")
        return self._add(_Object(Kind.ACCESS, access.who, access, ioas))

    def ioas(self, number: int) -> Ioas:
        """The space of an id. CommandError(ENOENT)."""
        thing = self._find(Kind.IOAS, number).thing
        assert isinstance(thing, Ioas)
        return thing

    def access(self, number: int) -> Access:
        """The access of an id. CommandError(ENOENT)."""
        thing = self._find(Kind.ACCESS, number).thing
        assert isinstance(thing, Access)
        return thing

    def destroy(self, kind: Kind, number: int) -> None:
        """Ends an access (its calls are ENODEV from now on, its views revoked) or a space (all areas go).

        CommandError: EBUSY (something uses it), ENOENT (unknown, or another kind's).
        """
        if kind is Kind.SOURCE:
            raise _source_error(number)
        found = self._find(kind, number)
        users = [other for other, entry in self._objects.copy().items() if entry.uses == number]
        if users:
            raise CommandError(errno.EBUSY, f"{kind} {number} ({found.name}) is used by {users}: destroy those first")
        if isinstance(found.thing, Access):
            found.thing.detach()
        else:
            found.thing.clear()
        del self._objects[number]

    def close(self) -> None:
        """Destroys everything, by passes over what nothing uses any more."""
        while self._objects:
            used = {entry.uses for entry in self._objects.values()}
            for number in [number for number in self._objects if number not in used]:
                self.destroy(self._objects[number].kind, number)

    def dump(self, most: int = sys.maxsize) -> dict[str, list[dict[str, Any]]]:
        """Everything as plain data, by ascending id: spaces, accesses, and the process's page sources (S4.26).

        Of what clients make as many of as they like (areas, files, views, sources) each list has `most` entries at
        most; a space has the numbers of its areas and views besides, and a source that of its views, of those listed.
        """
        objects = [(number, entry.name, entry) for number, entry in sorted(self._objects.copy().items())]
        accesses = [(number, name, one, one.thing) for number, name, one in objects if isinstance(one.thing, Access)]
        views = Counter(
            source for *_, access in accesses for view in access.views.live[:most] for source in _behind(view, access)
        )
        sources = sorted(_core.sources(most), key=lambda source: source["id"])
        return {
            "spaces": [
                _space(number, name, entry.thing, most)
                for number, name, entry in objects
                if isinstance(entry.thing, Ioas)
            ],
            "accesses": [
                {"id": number, "name": name, "ioas": one.uses, "views": list(map(_view, access.views.live[:most]))}
                for number, name, one, access in accesses
            ],
            "sources": [{**_source(source), "views": views[source["id"]]} for source in sources],
        }

    def areas(self, number: int, iova: int, most: int) -> list[dict[str, Any]]:
        """The first `most` areas of a space that have a byte at or after `iova`. CommandError(ENOENT): no such id."""
        return list(map(_area, self.ioas(number).areas(iova, most)))

    def _add(self, entry: _Object) -> int:
        number = next(self._ids)
        self._objects[number] = entry
        return number

    def _find(self, kind: Kind, number: int) -> _Object:
        found = self._objects.get(number)
        if found is None or found.kind is not kind:
            raise CommandError(errno.ENOENT, f"there is no {kind} {number}")
        return found


CONTEXT: Final = Context()
"""The process's own; sessions give their spaces to it."""


def _source_error(number: int) -> CommandError:
    if any(source["id"] == number for source in _core.sources()):
        return CommandError(errno.EBUSY, f"source {number} is used by areas: unmap those")
    return CommandError(errno.ENOENT, f"there is no source {number}")


def _permissions(prot: int) -> dict[str, bool]:
    return {"readable": bool(prot & PROT_READ), "writable": bool(prot & PROT_WRITE)}


def _way(access: int) -> str:
    return (AreaAccess(access).name or "messages").lower()


def _behind(view: View, access: Access) -> set[int]:
    """The sources that a view shows, as far as its first areas tell."""
    last = view.iova + view.length - 1
    areas = access.ioas.areas(view.iova, AREAS_OF_A_VIEW)
    return {source for iova, _, _, _, source, _ in areas if source and iova <= last}


def _area(area: tuple[int, int, int, int, int, int]) -> dict[str, Any]:
    iova, size, prot, way, source, offset = area
    return {"iova": iova, "size": size, **_permissions(prot), "access": _way(way), "source": source, "offset": offset}


def _space(number: int, name: str, ioas: Ioas, most: int) -> dict[str, Any]:
    return {
        "id": number,
        "name": name,
        "count": ioas.count,
        "bytes": ioas.mapped,
        "areas": list(map(_area, ioas.areas(0, most))),
        "files": [
            {"source": source, "areas": areas, "trust": TRUST[trust]} for source, areas, trust in ioas.files(most)
        ],
        "pins": ioas.pins,
        "dirty": {"logging": ioas.logging, "unreported": ioas.unreported},
    }


def _view(view: View) -> dict[str, Any]:
    return {
        "iova": view.iova,
        "size": view.length,
        "writable": view.writable,
        "valid": view.valid,
        "wanted": view.wanted,
    }


def _source(source: "_core.Source") -> dict[str, Any]:
    return {
        "id": source["id"],
        "device": source["device"],
        "inode": source["inode"],
        **_permissions(source["prot"]),
        "access": _way(source["access"]),
        "bytes": source["bytes"],
        "users": source["users"],
        "dead": source["dead"],
    }
