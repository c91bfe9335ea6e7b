"""Address spaces and accesses by id: S4.1, S4.2, S4.24, S4.26."""

import errno
import json
from collections.abc import Iterator

import pytest

from tests.iommu.conftest import BY_FILE, MAPPED, PAGE, REMOTE, Remote, error_of
from vfuserver import _core
from vfuserver._core import PROT_READ, Ioas
from vfuserver.errors import CommandError
from vfuserver.iommu import Access, Context, Kind
from vfuserver.testing.local_client import LocalMemory


@pytest.fixture
def context() -> Iterator[Context]:
    made = Context()
    yield made
    made.close()
    assert made.dump()["spaces"] == made.dump()["accesses"] == []


def refusal(call: object) -> int:
    assert callable(call)
    with pytest.raises(CommandError) as raised:
        call()
    return raised.value.errno


def test_ids_are_above_0_and_never_used_twice(context: Context, remote: Remote) -> None:
    ioas = Ioas()
    first = context.add_ioas(ioas, "one")
    access = Access(ioas, remote)
    second = context.add_access(access, first)
    assert 0 < first < second
    assert (context.ioas(first), context.access(second)) == (ioas, access)
    context.destroy(Kind.ACCESS, second)
    context.destroy(Kind.IOAS, first)
    assert context.add_ioas(ioas, "again") > second


def test_what_is_used_cannot_be_destroyed(context: Context, memory: LocalMemory) -> None:
    space = context.add_ioas(memory.ioas, "space")
    access = context.add_access(memory, space)
    with pytest.raises(CommandError, match=f"ioas {space} .* is used by .{access}.: destroy those first") as raised:
        context.destroy(Kind.IOAS, space)
    assert raised.value.errno == errno.EBUSY
    (source, _, _), *_ = memory.ioas.files()
    assert refusal(lambda: context.destroy(Kind.SOURCE, source)) == errno.EBUSY
    context.destroy(Kind.ACCESS, access)
    assert error_of(lambda: memory.read_now(MAPPED, 1)) == errno.ENODEV
    context.destroy(Kind.IOAS, space)
    assert memory.ioas.count == 0
    assert refusal(lambda: context.destroy(Kind.SOURCE, source)) == errno.ENOENT


def test_unknown_ids_and_other_kinds_are_enoent(context: Context, memory: LocalMemory) -> None:
    space = context.add_ioas(memory.ioas, "space")
    access = context.add_access(memory, space)
    for call in (
        lambda: context.ioas(access),
        lambda: context.access(space),
        lambda: context.ioas(0),
        lambda: context.destroy(Kind.ACCESS, space),
        lambda: context.destroy(Kind.IOAS, access),
        lambda: context.destroy(Kind.IOAS, 12345),
        lambda: context.add_access(memory, access),
    ):
        assert refusal(call) == errno.ENOENT
    other = context.add_ioas(Ioas(), "other")
    assert refusal(lambda: context.add_access(memory, other)) == errno.EINVAL


def test_close_destroys_everything_whatever_uses_what(memory: LocalMemory, remote: Remote) -> None:
    context = Context()
    space = context.add_ioas(memory.ioas, "space")
    for number in range(3):
        context.add_access(Access(memory.ioas, remote, f"device {number}"), space)
    context.add_ioas(Ioas(), "empty")
    context.close()
    assert memory.ioas.count == 0
    assert refusal(lambda: context.ioas(space)) == errno.ENOENT


def test_one_space_feeds_two_devices_and_one_may_leave(context: Context, memory: LocalMemory, remote: Remote) -> None:
    """S4.24."""
    space = context.add_ioas(memory.ioas, "space")
    leaver = context.add_access(Access(memory.ioas, remote, "leaver"), space)
    lost, kept = context.access(leaver).pin(MAPPED, 8, True), memory.pin(MAPPED, 8, True)
    lost.memory[0] = 42
    context.destroy(Kind.ACCESS, leaver)
    assert (lost.valid, kept.valid, kept.memory[0]) == (False, True, 42)
    assert memory.read_now(MAPPED, 1) == b"\x2a"
    assert error_of(lost.release) == errno.EFAULT
    kept.release()


def test_the_dump_tells_areas_sources_views_and_the_log(context: Context, memory: LocalMemory) -> None:
    """S4.26."""
    memory.add(0x80000, PAGE, PROT_READ)
    memory.ioas.log([])
    space = context.add_ioas(memory.ioas, "testdev#1")
    access = context.add_access(memory, space)
    with memory.pin(MAPPED + 16, 32, True):
        dump = context.dump()
    (shown,) = dump["spaces"]
    assert (shown["id"], shown["name"], shown["pins"]) == (space, "testdev#1", 1)
    assert (shown["count"], shown["bytes"]) == (11, 17 * PAGE)
    assert shown["dirty"] == {"logging": True, "unreported": 0}
    areas = {area["iova"]: area for area in shown["areas"]}
    assert [areas[iova]["access"] for iova in (MAPPED, BY_FILE, REMOTE)] == ["mapped", "file", "messages"]
    assert (areas[0x80000]["readable"], areas[0x80000]["writable"]) == (True, False)
    assert {file["trust"] for file in shown["files"]} == {"trusted"}
    view = {"iova": MAPPED + 16, "size": 32, "writable": True, "valid": True, "wanted": False}
    assert dump["accesses"] == [{"id": access, "name": "testdev", "ioas": space, "views": [view]}]
    assert {source["id"] for source in dump["sources"]} == {source["id"] for source in _core.sources()}
    assert dump["sources"][0].keys() == {
        *("id", "device", "inode", "readable", "writable", "access", "bytes", "users", "dead", "views")
    }
    assert sum(source["views"] for source in dump["sources"]) == 1
    assert json.loads(json.dumps(dump)) == dump


def test_a_dump_has_as_many_entries_as_asked_for_and_areas_come_in_pieces(
    context: Context, memory: LocalMemory
) -> None:
    """S4.26."""
    space = context.add_ioas(memory.ioas, "testdev#1")
    context.add_access(memory, space)
    with memory.pin(MAPPED, 8, True), memory.pin(MAPPED + 8, 8, False):
        dump = context.dump(1)
    (shown,) = dump["spaces"]
    assert (len(shown["areas"]), len(shown["files"]), len(dump["sources"])) == (1, 1, 1)
    assert len(dump["accesses"][0]["views"]) == 1
    assert (shown["count"], shown["pins"]) == (10, 2)
    whole = context.dump()["spaces"][0]["areas"]
    assert [context.areas(space, area["iova"], 1) for area in whole] == [[area] for area in whole]
    assert refusal(lambda: context.areas(space + 1, 0, 1)) == errno.ENOENT
