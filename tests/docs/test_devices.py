"""docs/devices.md: every example is a device that can be made, described and driven as the text says."""

import asyncio
import errno
import struct
import zlib
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import Block, blocks
from vfuserver import Card, CommandError, PciExpress, describe
from vfuserver.device.model import Model, is_model
from vfuserver.errors import UsageError
from vfuserver.testing.local_client import LocalClient

EXAMPLES = [block for block in blocks("docs/devices.md") if block.language == "python"]
NUMBERS = count()


def run_block(block: Block) -> Model:
    """Executes an example as a module of its own; its device, or the card if its devices are functions of one."""
    names: dict[str, Any] = {"__name__": f"example_{next(NUMBERS)}"}
    exec(compile(block.text, f"docs/devices.md:{block.line}", "exec"), names)
    made = [one for one in names.values() if isinstance(one, type) and one.__module__ == names["__name__"]]
    (model,) = [one for one in made if issubclass(one, Card)] or made
    assert is_model(model)
    return model


def example(name: str) -> Model:
    (block,) = (block for block in EXAMPLES if f"class {name}(" in block.text)
    return run_block(block)


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: f"line {block.line}")
def test_example_is_a_device_that_can_be_made_and_described(block: Block) -> None:
    model = run_block(block)
    description = describe(model)
    for one in description.get("functions", [description]):
        assert one["identity"]["vendor"] == 0x1234
    model().close()


def test_examples_cover_every_policy_method() -> None:
    text = "\n".join(block.text for block in EXAMPLES)
    assert len(EXAMPLES) >= 7
    for name in ("ro", "rw", "wo", "counter", "array", "memory", "register", "on_read", "on_write"):
        assert f".{name}(" in text or f".{name}\n" in text


def test_framebuffer_keeps_its_power_on_bytes() -> None:
    device: Any = example("Framebuffer")()
    assert device.first_bytes() == b"hello"
    device.pixels[0:5] = b"other"
    assert device.first_bytes() == b"other"
    device.close()


def test_functions_of_a_card_share_it() -> None:
    card: Any = example("Telegraph")(shift="1")
    with LocalClient(card.sender) as client:
        client.enable()
        client.write(0, 0, 0x40)
    assert (card.receiver.letter, card.sent) == (0x41, 1)
    card.close()


async def test_a_reset_that_takes_time_answers_when_it_is_complete() -> None:
    """S2.26: the function level reset's write waits for the timer."""
    device: Any = example("Settling")()
    with LocalClient(device) as client:
        at = device.config.find(PciExpress).start + 8
        later = client.write_config(at, b"\x00\x80")
        assert later is not None
        assert not later.done
        done = asyncio.Event()
        later.when_done(lambda _: done.set())
        await asyncio.wait_for(done.wait(), 10)
    device.close()


def test_options_are_checked_and_read_as_attributes() -> None:
    configurable = example("Configurable")
    device: Any = configurable(speed="fast", size="0x40", quiet="yes")
    assert (device.speed, device.size, device.quiet) == ("fast", 64, True)
    device.close()
    with pytest.raises(UsageError, match="speed must be slow or fast, not 'warp'"):
        configurable(speed="warp")


# -- DMA

RAM = 0x10000


async def test_disk_serves_its_ring_from_the_file(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(range(256)) * 1024)
    disk: Any = example("Disk")(image=str(image))
    with LocalClient(disk) as client:
        client.enable()
        ram = client.memory.add(RAM, 1 << 20)
        requests = [(4, RAM + 0x1000, 16), (1024, RAM + 0x10000, 100_000)]
        ram[8:56] = b"".join(struct.pack("<3Q", *request) for request in requests)
        ram[0:4] = struct.pack("<I", len(requests))
        client.write(0, 0x00, RAM, 8)
        client.write(0, 0x08, 1)
        while disk.serve.running:
            await asyncio.sleep(0.001)
        assert (disk.error, ram[4:8]) == (0, struct.pack("<I", 2))
        assert ram[0x1000:0x1010] == bytes(range(4, 20))
        assert ram[0x10000 : 0x10000 + 100_001] == image.read_bytes()[1024:101_024] + b"\0"
        client.memory.remove(RAM, 1 << 20)
        client.write(0, 0x08, 1)
        while disk.serve.running:
            await asyncio.sleep(0.001)
        assert disk.error == errno.EFAULT
    disk.close()


def test_checker_sums_guest_memory_in_place() -> None:
    checker: Any = example("Checker")()
    with LocalClient(checker) as client:
        client.enable()
        client.memory.add(RAM, 4096)[0:5] = b"hello"
        client.write(0, 0x00, RAM, 8)
        client.write(0, 0x08, 5)
        assert checker.result == zlib.crc32(b"hello")
        client.write(0, 0x08, 5000)
        assert checker.error == errno.EFAULT
        assert client.memory.ioas.pins == 0
    checker.close()


def test_paged_reads_by_its_own_addresses() -> None:
    paged: Any = example("Paged")()
    with LocalClient(paged) as client:
        client.enable()
        ram = client.memory.add(RAM, 4 * 4096)
        ram[0:24] = struct.pack("<3Q", 0, RAM + 0x3000, RAM + 0x1000)
        ram[0x3FFE:0x4000] = ram[0x1000:0x1002] = b"\x34\x12"
        client.write(0, 0x00, RAM, 8)
        client.write(0, 0x08, 0x1FFE)
        assert paged.word == 0x1234_1234
        with pytest.raises(CommandError):
            client.write(0, 0x08, 0x10)
    paged.close()
