"""A class that cannot be a device is refused when its class statement ends, naming class and field."""

import pytest

from vfuserver import Bar, DeclarationError, Intx, KiB, MsiX, Option, PciDevice, PciIdentity, State, job, timer

IDENTITY = PciIdentity(vendor=0x1234, device=0x5678)


def declare(**members: object) -> type[PciDevice]:
    return type("Wrong", (PciDevice,), {"identity": IDENTITY, **members})


def refused(says: str, **members: object) -> None:
    with pytest.raises(DeclarationError) as raised:
        declare(**members)
    assert says in str(raised.value)
    assert "Wrong" in str(raised.value)


def test_missing_identity_is_refused() -> None:
    refused("Wrong.identity must be a PciIdentity, not missing", identity=None)


def test_two_bars_in_one_slot_are_refused() -> None:
    refused(
        "Wrong.second: BAR1 must have one owner, not first too",
        first=Bar(0, 4 * KiB, bits=64),
        second=Bar(1, 4 * KiB),
    )


def test_registers_that_overlap_are_refused() -> None:
    mmio = Bar(0, 4 * KiB)
    refused(
        "Wrong.mmio.b at 0x0: must begin at 0x4 or later, not overlap a",
        mmio=mmio,
        a=mmio.ro(0),
        b=mmio.ro(0, width=2),
    )


def test_register_whose_hook_takes_its_name_is_refused() -> None:
    mmio = Bar(0, 4 * KiB)
    mmio.rw(0).on_write(lambda self, value: value)
    refused("Wrong.mmio: the register at 0x0 must keep a name of its own", mmio=mmio)


def test_msix_in_a_bar_that_is_not_there_is_refused() -> None:
    refused("MsiX must name a BAR that the class declares, not BAR4", capabilities=(MsiX(vectors=1, table_bar=4),))


def test_msix_table_over_a_register_is_refused() -> None:
    tables = Bar(4, 4 * KiB)
    refused(
        "must begin at 0x10 or later, not overlap msix_table",
        tables=tables,
        a=tables.ro(8),
        capabilities=(MsiX(vectors=1, table_bar=4),),
    )


@pytest.mark.parametrize("areas", [[(0, 100)], [(0x2000, 0x1000)], [(0x800, 0x1000)]])
def test_mappable_area_that_is_not_pages_of_memory_is_refused(areas: list[tuple[int, int]]) -> None:
    shared = Bar(2, 16 * KiB, backing=True, mappable=areas)
    refused("mappable areas must", shared=shared, window=shared.memory(0, 4 * KiB))


def test_name_that_the_framework_uses_is_refused() -> None:
    refused("Wrong.reset: must have another name", reset=State(0))


def test_two_intx_are_refused() -> None:
    refused("one Intx must be declared", a=Intx(), b=Intx())


def test_unknown_pin_is_refused() -> None:
    with pytest.raises(DeclarationError, match="must be A, B, C or D, not 'E'"):
        Intx("E")


def test_capability_that_is_none_is_refused() -> None:
    refused("must hold capabilities such as Msi(), not 5", capabilities=(5,))


def test_state_that_cannot_be_saved_is_refused() -> None:
    refused("Wrong.thing: State must be plain data", thing=State(object()))


def test_job_argument_that_cannot_be_saved_is_refused() -> None:
    async def work(self: object, device: PciDevice) -> None:
        """Takes an object."""

    refused("Wrong.work: the argument device must be plain data", work=job(work))


def test_plain_function_as_a_job_is_refused() -> None:
    def work(self: object) -> None:
        """No coroutine."""

    refused("Wrong.work: a job must be an `async def`", work=job(work))  # type: ignore[arg-type]


def test_job_under_another_name_is_refused() -> None:
    async def work(self: object) -> None:
        """Works."""

    refused("Wrong.other: a job must keep its function's name, work", other=job(work))


def test_timer_without_a_period_above_zero_is_refused() -> None:
    def tick(self: object) -> None:
        """Ticks."""

    refused("Wrong.tick: the period must be more than 0 seconds", tick=timer(period=0)(tick))


def test_option_whose_default_is_of_another_type_is_refused() -> None:
    refused("Wrong.speed: the default must be of type int, not 'fast'", speed=Option[object](int, "fast", "how fast"))


def test_subclass_inherits_and_adds() -> None:
    class Base(PciDevice, abstract=True):
        mmio = Bar(0, 4 * KiB)
        a = mmio.rw(0)

    class Derived(Base):
        identity = IDENTITY
        more = Bar(1, 4 * KiB)
        b = more.rw(0)

    device = Derived()
    device.a, device.b = 1, 2
    assert (device.a, device.b, len(Derived.declaration.bars)) == (1, 2, 2)
    device.close()
