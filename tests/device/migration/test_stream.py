"""The stream: whatever is not exactly what was saved is refused, and the device is as it was (S3.15, S3.16)."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.device.migration.models import Everything, Streamed, Tiny
from tests.device.migration.moving import START, S, feed, go, load, migration, save
from vfuserver import CommandError, PciDevice
from vfuserver.device.migration.stream import LONGEST, Parser, Section, Writer
from vfuserver.plain import decode, encode

HEADER_BYTES, SECTION_BYTES = 16, 32
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def tiny() -> Iterator[Tiny]:
    device = Tiny()
    yield device
    device.close()


async def saved_tiny() -> bytes:
    device = Tiny()
    device.word, device.scratch = 8, 0x1234
    data = await save(device)
    device.close()
    return data


def sections(data: bytes) -> list[Section]:
    return Parser().feed(data)


def sealed(parts: list[Section]) -> bytes:
    """A stream of these sections, with CRCs that fit."""
    writer = Writer()
    pieces = [writer.header()]
    for one in parts:
        pieces += map(bytes, writer.section(one.name, one.version, one.payload, optional=one.optional))
    return b"".join([*pieces, *map(bytes, writer.end())])


def everything_about(device: PciDevice) -> tuple[object, ...]:
    return device.snapshot(), device.config.image, device.config.saved(), device.gate.word


async def take(device: PciDevice, data: bytes, size: int) -> None:
    feed(device, data, size)
    await go(device, S.RESUMING, S.STOP)


async def refused(device: PciDevice, data: bytes, size: int = 1 << 20) -> str:
    """Tries to load, in a device that is in STOP; it must be refused, and nothing be different. The reason."""
    before = everything_about(device)
    await go(device, S.STOP, S.RESUMING)
    with pytest.raises(CommandError) as raised:
        await take(device, data, size)
    with pytest.raises(CommandError):
        await go(device, S.RESUMING, S.STOP)
    assert everything_about(device) == before
    return str(raised.value)


async def test_every_flipped_bit_is_refused(tiny: Tiny) -> None:
    """S3.15."""
    data = await saved_tiny()
    await go(tiny, S.RUNNING, S.RUNNING_P2P, S.STOP)
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            assert "refused" in await refused(tiny, bytes(damaged))


async def test_every_cut_is_refused(tiny: Tiny) -> None:
    """S3.15."""
    data = await saved_tiny()
    await go(tiny, S.RUNNING, S.RUNNING_P2P, S.STOP)
    for length in range(len(data)):
        assert "without an end marker" in await refused(tiny, data[:length])


@pytest.mark.parametrize("more", [b"\0", b"x" * 100, None])
async def test_what_follows_the_end_is_refused(tiny: Tiny, more: bytes | None) -> None:
    """S3.15: also the stream again."""
    data = await saved_tiny()
    await go(tiny, S.RUNNING, S.RUNNING_P2P, S.STOP)
    assert "follow its end" in await refused(tiny, data + (more or data))


async def test_sections_left_out_or_there_twice_are_refused(tiny: Tiny) -> None:
    """S3.15: each section is right by itself; the end marker tells, and what must be there."""
    data = await saved_tiny()
    await go(tiny, S.RUNNING, S.RUNNING_P2P, S.STOP)
    parts = sections(data)
    end = HEADER_BYTES
    for at, one in enumerate(parts):
        start, end = end, end + SECTION_BYTES + len(one.payload)
        assert "sections are missing" in await refused(tiny, data[:start] + data[end:])
        left_out = "must be device" if at == 0 else f"the section {one.name} is missing"
        assert left_out in await refused(tiny, sealed(parts[:at] + parts[at + 1 :]))
        assert f"{one.name} is there twice" in await refused(tiny, sealed([*parts, one]))
    assert end < len(data)


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
async def test_any_segmentation_is_the_same(tiny: Tiny, size: int) -> None:
    """S3.14."""
    await load(tiny, await saved_tiny(), size)
    await go(tiny, *START[1:])
    assert (tiny.word, tiny.scratch) == (8, 0x1234)


async def test_unknown_section_is_skipped_if_optional_and_refused_if_not(tiny: Tiny) -> None:
    """S3.16."""
    parts = sections(await saved_tiny())
    parts.insert(2, Section("later", 1, b"what a later version says", optional=True))
    await load(tiny, sealed(parts))
    assert tiny.word == 8
    parts[2] = Section("later", 1, b"what a later version says")
    assert "the section later has version 1" in await refused(tiny, sealed(parts))


async def test_newer_version_of_a_known_section_is_refused(tiny: Tiny) -> None:
    """S3.16."""
    parts = sections(await saved_tiny())
    await go(tiny, S.RUNNING, S.RUNNING_P2P, S.STOP)
    for at, one in enumerate(parts):
        newer = Section(one.name, one.version + 1, one.payload)
        assert f"{one.name} has version 2" in await refused(tiny, sealed([*parts[:at], newer, *parts[at + 1 :]]))


async def test_stream_of_another_device_is_refused_at_its_first_section(tiny: Tiny) -> None:
    """S3.16."""
    other = Everything()
    data = await save(other)
    other.close()
    await go(tiny, S.RUNNING, S.RUNNING_P2P, S.STOP, S.RESUMING)
    with pytest.raises(CommandError, match="it is of a everything, must be of a tiny"):
        migration(tiny).write(data[:600])


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 4096, b"\x7fELF" * 1000])
async def test_foreign_bytes_are_refused(tiny: Tiny, data: bytes) -> None:
    """S3.16."""
    await go(tiny, S.RUNNING, S.RUNNING_P2P, S.STOP)
    await refused(tiny, data)


async def test_what_differs_is_listed() -> None:
    """S2.31: read-only configuration bits, options, BARs: EINVAL with all of it."""

    class Other(Everything):
        device_name = "everything"
        identity = Everything.identity.__class__(vendor=0x1234, device=0x0066)

    one, other, third = Everything(level="4"), Everything(), Other()
    data = await save(one)
    with pytest.raises(CommandError, match="option level must be 3, not 4"):
        await load(other, data)
    with pytest.raises(CommandError, match=r"Header\.device .*must be 0x66, not 0x77"):
        await load(third, await save(Everything()))
    for device in (one, other, third):
        device.close()


@pytest.mark.parametrize("seed", range(8))
async def test_forged_payloads_are_refused_or_give_a_device_that_works(seed: int) -> None:
    """S3.15: with CRCs that fit, so that everything behind them is tried: no exception but a refusal."""
    chance = random.Random(seed)
    source, device = Everything(), Everything()
    source.interrupt()
    source.queue += [1, (2, "x"), {3: b"y"}]
    parts = sections(await save(source))
    await go(device, S.RUNNING, S.RUNNING_P2P, S.STOP)
    for _ in range(150):
        at = chance.randrange(len(parts))
        payload = bytearray(parts[at].payload)
        for _ in range(chance.randint(1, 3)):
            payload[chance.randrange(len(payload))] = chance.choice([0, 1, 0xFF, chance.randrange(256), *b"NTFidsablm"])
        forged = [*parts[:at], Section(parts[at].name, 1, bytes(payload)), *parts[at + 1 :]]
        await go(device, S.STOP, S.RESUMING)
        before = everything_about(device)
        try:
            feed(device, sealed(forged))
            await go(device, S.RESUMING, S.STOP)
        except CommandError:
            assert everything_about(device) == before
            continue
        await go(device, S.STOP, S.RUNNING_P2P, S.RUNNING)
        assert len(await save(device)) > 1000
        await go(device, S.STOP_COPY, S.STOP)
    source.close()
    device.close()


async def test_forged_values_are_refused_by_name() -> None:
    """S3.15: what no device of the class saves."""
    source = Everything()
    parts = {one.name: one for one in sections(await save(source))}
    source.close()
    device = Everything()
    await go(device, S.RUNNING, S.RUNNING_P2P, S.STOP)
    forged: dict[str, list[tuple[object, str]]] = {
        "jobs": [
            ({"work": [[1, 2, 3]]}, "cannot be started with"),
            ({"other": []}, "no job other"),
        ],
        "timers": [
            ({"alarm": -1.0}, "0 seconds or more"),
            ({"alarm": float("nan")}, "not nan"),
            ({"x": None}, "no timer x"),
        ],
        "doorbells": [({"rung": [[1, 1 << 32]]}, "values of 4 bytes"), ({"rung": []}, "1 registers, not 0")],
        "registers": [({"BAR9": {"rows": {}, "halves": {}, "undeclared": 0}}, "no BAR9"), (5, "another kind of data")],
        "interrupts": [
            ({"intx": False, "last": 3, "written": [3], "pending": {"MSI": 16, "MSIX": 8}}, "MSI must have 4 vectors"),
        ],
        "state": [({"unheard": 1}, "no State unheard"), ({"number": 1.5}, "must be int, not float")],
    }
    for name, cases in forged.items():
        for value, why in cases:
            altered = [Section(name, 1, encode(value)) if one == name else parts[one] for one in parts]
            assert why in await refused(device, sealed(altered))
    device.close()


async def test_section_of_endless_length_is_refused_before_it_comes(tiny: Tiny) -> None:
    """S3.15: nothing is kept for a length that no section has."""
    writer = Writer()
    beginning = writer.header() + bytes(writer.section("state", 1, bytes(LONGEST))[0])
    await go(tiny, S.RUNNING, S.RUNNING_P2P, S.STOP)
    assert "without an end marker" in await refused(tiny, beginning)
    crafted = bytearray(beginning)
    crafted[36:40] = (LONGEST + 1).to_bytes(4, "little")
    assert "damaged" in await refused(tiny, bytes(crafted))


async def test_a_bar_without_registers_takes_no_room_and_may_be_there() -> None:
    """S3.16: it is named in streams of servers before this one."""
    source, device = Streamed(), Streamed()
    source.pixels[0] = 9
    parts = sections(await save(source))
    at = next(index for index, one in enumerate(parts) if one.name == "registers")
    assert decode(parts[at].payload) == {}
    parts[at] = Section("registers", 1, encode({"BAR2": {"rows": {}, "halves": {}, "undeclared": 0}}))
    await load(device, sealed(parts))
    assert device.pixels[0] == 9
    source.close()
    device.close()


async def test_memory_that_is_not_the_device_s_is_refused() -> None:
    """S3.15."""
    source, device = Streamed(), Streamed()
    parts = sections(await save(source))
    await go(device, S.RUNNING, S.RUNNING_P2P, S.STOP)
    at = next(index for index, one in enumerate(parts) if one.name == "memory")
    for payload in (b"", b"\0" * 16, bytes(parts[at].payload) + b"x", b"\x02\0\0\0" + b"\xff" * 12):
        altered = [*parts[:at], Section("memory", 1, payload), *parts[at + 1 :]]
        assert "memory" in await refused(device, sealed(altered))
    source.close()
    device.close()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("everything-*.stream")), ids=lambda path: path.stem)
async def test_streams_of_every_version_load(path: Path) -> None:
    """S3.16: golden files, which are never changed. A new version of the format adds one."""
    device = Everything()
    await load(device, path.read_bytes())
    assert (device.number, device.text, device.queue) == (42, "golden", [1, (2, b"x")])
    assert (device.scratch, bytes(device.window[:6])) == (0x5A5A, b"golden")
    assert device.interrupts.snapshot()["intx"]
    assert device.work.saved() == [[7, "again"]]
    assert 0 < (device.alarm.left() or 0) <= 1000
    device.close()


def test_there_is_a_golden_file_of_this_version() -> None:
    """S3.16."""
    assert (GOLDEN / "everything-1.0.stream").exists()
