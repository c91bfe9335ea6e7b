"""What every capability of `pci/caps` must do, whatever it is: a new file there is covered without an edit here."""

import logging
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from itertools import product
from types import FrameType

import pytest

from vfuserver._core import Gate
from vfuserver.pci import (
    AnyCapability,
    BarLayout,
    ConfigSpace,
    ExtendedCapability,
    GatePort,
    PciIdentity,
    registered,
    walk,
    walk_extended,
)
from vfuserver.pci.capability import CapabilityClass
from vfuserver.pci.describe import describe
from vfuserver.vfio import Later, ResetReason

VARIANTS = [variant for declared in registered() for variant in declared.variants()]
HEADER_BYTES = {False: 2, True: 4}
PATTERNS = (0x00, 0xFF, 0xA5, 0x5A)
ROUNDING = 512
"""Bytes: less than any table of a configuration space, more than integers that are stored anew."""

every_class = pytest.mark.parametrize("declared", registered(), ids=lambda declared: declared.__name__)
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=repr)


class ResettingPort(GatePort):
    """A device with nothing but a configuration space, which it resets when asked."""

    config: ConfigSpace

    def reset_requested(self, reason: ResetReason) -> Later | None:
        self.config.reset()
        return None


def extending() -> AnyCapability:
    return next(declared.variants()[0] for declared in registered() if declared.extends)


def space_with(variant: AnyCapability) -> tuple[ConfigSpace, AnyCapability]:
    """A function with six BARs that has the capability, and the live capability in it."""
    needed = (variant,) if not isinstance(variant, ExtendedCapability) else (extending(), variant)
    port = ResettingPort(Gate())
    bars = [BarLayout(index, 1 << 20) for index in range(6)]
    port.config = ConfigSpace(PciIdentity(0x1234, 0x7E57), bars, needed, port=port)
    return port.config, port.config.capabilities[-1]


def changes(before: bytes, after: bytes) -> int:
    return int.from_bytes(before, "little") ^ int.from_bytes(after, "little")


@every_class
def test_class_names_its_clause_and_shows_its_layouts(declared: CapabilityClass) -> None:
    """House style: every capability names its clause of the specification."""
    module = __import__(declared.__module__, fromlist=["__doc__"])
    assert module.__doc__ is not None
    assert "PCI" in module.__doc__
    assert declared.variants()


@every_variant
def test_variant_images_and_masks_have_its_length(variant: AnyCapability) -> None:
    assert {len(variant.image()), len(variant.write_mask()), len(variant.w1c_mask())} == {variant.length}
    assert variant.length >= HEADER_BYTES[isinstance(variant, ExtendedCapability)]


@every_variant
def test_variant_header_is_never_writable(variant: AnyCapability) -> None:
    """S2.10: id and next pointers are the server's."""
    header = HEADER_BYTES[isinstance(variant, ExtendedCapability)]
    layout = variant.layout
    assert not any(layout.writable[:header] + layout.clear[:header] + layout.hooked[:header])


@every_variant
def test_variant_is_found_by_the_walker(variant: AnyCapability) -> None:
    """S2.8: the list that a guest walks."""
    config, live = space_with(variant)
    links = walk_extended(config.image) if isinstance(variant, ExtendedCapability) else walk(config.image)
    assert (links[-1].offset, links[-1].id, links[-1].next) == (live.start, variant.id, 0)
    assert config.owner(live.start) is live
    assert config.owner(live.start + live.length - 1) is live
    assert config.owner(live.start - 1) is not live


@every_variant
def test_variant_written_changes_declared_bits_only(variant: AnyCapability) -> None:
    """S2.2: read-only bits stay, whatever is written by whichever width."""
    layout = variant.layout
    declared = sum(int.from_bytes(mask, "little") for mask in (layout.writable, layout.clear, layout.hooked))
    for width, pattern in product((1, 2, 4), PATTERNS):
        config, live = space_with(variant)
        before = live.snapshot()
        for offset in range(live.start, live.start + live.length, width):
            config.write(offset, width, int.from_bytes(bytes((pattern,)) * width, "little"))
            assert changes(before, live.snapshot()) & ~declared == 0


@every_variant
def test_variant_reset_gives_the_image_back(variant: AnyCapability) -> None:
    """S2.30: the power-on image, sticky bits excepted."""
    config, live = space_with(variant)
    for pattern in PATTERNS:
        config.access(live.start, live.length, bytes((pattern,)) * live.length)
        config.reset()
        sticky = int.from_bytes(live.layout.sticky, "little") << 8 * live.start
        assert changes(config.reset_image, config.image) & ~sticky == 0


@every_variant
def test_variant_neighbours_untouched_by_writes(variant: AnyCapability) -> None:
    """S2.4: nothing outside the capability changes, unless the write is a reset."""
    config, live = space_with(variant)
    before = config.image
    config.access(live.start, live.length, b"\xff" * live.length)
    after = config.image
    assert after[: live.start] == before[: live.start]
    assert after[live.start + live.length :] == before[live.start + live.length :]


@every_variant
def test_variant_reads_have_no_effect(variant: AnyCapability) -> None:
    config, live = space_with(variant)
    before = config.image
    for offset in range(live.start, live.start + live.length):
        config.read(offset, 1)
    assert config.image == before


@every_variant
def test_variant_is_described_field_by_field(variant: AnyCapability) -> None:
    """Declared once, described from the same rows."""
    config, _ = space_with(variant)
    view = describe(config).capabilities[-1]
    assert (view.id, view.length) == (variant.id, variant.length)
    assert [(field.name, field.offset, field.width) for field in view.fields] == [
        (field.name, field.offset, field.width) for field in variant.layout
    ]


@every_variant
def test_variant_declaration_is_not_changed_by_use(variant: AnyCapability) -> None:
    """S2.1: declarations are shared by devices."""
    config, live = space_with(variant)
    config.access(live.start, live.length, b"\xff" * live.length)
    assert (
        variant.image()[HEADER_BYTES[isinstance(variant, ExtendedCapability)] :]
        == live.image()[HEADER_BYTES[isinstance(variant, ExtendedCapability)] :]
    )
    assert space_with(variant)[0].image == config.reset_image


def calls(work: Callable[[], object]) -> list[str]:
    """The Python functions that are entered meanwhile, in order, as module.name."""
    entered: list[str] = []

    def enter(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            entered.append(f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}")

    sys.setprofile(enter)
    try:
        work()
    finally:
        sys.setprofile(None)
    return [name for name in entered if name.startswith("vfuserver.")]


MAKING = ("assembly", "placement", "walk", "fields.compile", "Block.rows", ".body", "_owner_map")
"""Where a configuration space is made; nothing of it belongs into an access."""


@every_variant
def test_variant_first_access_does_what_every_access_does(variant: AnyCapability) -> None:
    """S2.6: what the first read and the first write of each byte call is what the second ones call: nothing is made.

    A read is one function with a copy in it, wherever and however long it is.
    """
    config, live = space_with(variant)
    size, start = config.size, live.start
    reads = [calls(lambda: config.access(0, size, None)) for _ in range(2)]
    assert reads[0] == reads[1] == calls(lambda: config.access(start, 1, None))
    assert reads[0][0] == "vfuserver.pci.config_space.ConfigSpace.access"
    for offset in range(live.start, live.start + live.length):
        unchanged = config.image[offset : offset + 1]
        first, second = (calls(partial(config.access, offset, 1, unchanged)) for _ in range(2))
        assert first == second
        assert not [name for name in first if any(making in name for making in MAKING)]


@every_variant
def test_variant_access_keeps_no_memory(variant: AnyCapability, caplog: pytest.LogCaptureFixture) -> None:
    """S2.6: after accesses to all of it, a new configuration space holds no more memory than before."""
    caplog.set_level(logging.CRITICAL, logger="vfuserver")  # pytest keeps what is logged
    config, live = space_with(variant)
    warm, _ = space_with(variant)
    data = live.snapshot()

    def everything(space: ConfigSpace) -> None:
        space.access(0, space.size, None)
        for offset in range(live.start, live.start + live.length):
            space.access(offset, 1, data[offset - live.start : offset - live.start + 1])

    everything(warm)  # what the interpreter itself keeps of code that it runs for the first time
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        everything(config)
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    ours = [tracemalloc.Filter(True, "*/vfuserver/pci/*")]
    grown = after.filter_traces(ours).compare_to(before.filter_traces(ours), "lineno")
    assert sum(line.size_diff for line in grown) < ROUNDING, grown[:3]
