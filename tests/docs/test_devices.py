"""docs/devices.md: every example is a device that can be made, described and driven as the text says."""

from itertools import count
from typing import Any

import pytest

from tests.docs.blocks import Block, blocks
from vfuserver import PciDevice, describe
from vfuserver.errors import UsageError

EXAMPLES = [block for block in blocks("docs/devices.md") if block.language == "python"]
NUMBERS = count()


def run_block(block: Block) -> type[PciDevice]:
    """Executes an example as a module of its own; its device."""
    names: dict[str, Any] = {"__name__": f"example_{next(NUMBERS)}"}
    exec(compile(block.text, f"docs/devices.md:{block.line}", "exec"), names)
    (device,) = (one for one in names.values() if isinstance(one, type) and one.__module__ == names["__name__"])
    assert issubclass(device, PciDevice)
    return device


def example(name: str) -> type[PciDevice]:
    (block,) = (block for block in EXAMPLES if f"class {name}(" in block.text)
    return run_block(block)


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: f"line {block.line}")
def test_example_is_a_device_that_can_be_made_and_described(block: Block) -> None:
    device = run_block(block)
    assert describe(device)["identity"]["vendor"] == 0x1234
    device().close()


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


def test_options_are_checked_and_read_as_attributes() -> None:
    configurable = example("Configurable")
    device: Any = configurable(speed="fast", size="0x40", quiet="yes")
    assert (device.speed, device.size, device.quiet) == ("fast", 64, True)
    device.close()
    with pytest.raises(UsageError, match="speed must be slow or fast, not 'warp'"):
        configurable(speed="warp")
