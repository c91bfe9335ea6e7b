"""Cards: functions that share one object, each a Backend of its own (S2.18: header type; S2.30: reset)."""

import pytest

from vfuserver import (
    Bar,
    Card,
    DeclarationError,
    Function,
    Option,
    PciDevice,
    PciIdentity,
    ResetReason,
    UsageError,
    describe,
)
from vfuserver.device import function_names, power_on
from vfuserver.testing.local_client import LocalClient

HEADER_TYPE = 0x0E
MULTIFUNCTION = 0x80


class Port(PciDevice):
    """A register that the whole card counts the writes of."""

    identity = PciIdentity(vendor=0x1234, device=0x0001)
    card: "Pair"
    speed = Option(int, 1, "of the port")
    mmio = Bar(0, size=4096)
    value = mmio.rw(0x00)

    @value.on_write
    def count(self, _value: int) -> None:
        """For all functions together."""
        self.card.writes += 1


class Console(PciDevice):
    """Something else on the same card."""

    identity = PciIdentity(vendor=0x1234, device=0x0002)
    mmio = Bar(0, size=4096)


class Pair(Card):
    """Two ports and a console."""

    writes = 0
    colour = Option(str, "red", "of the bracket", choices=("red", "green"))
    left = Function(Port)
    right = Function(Port)
    console = Function(Console)


def test_functions_are_devices_in_the_order_of_the_class_body() -> None:
    card = Pair()
    assert card.functions == (card.left, card.right, card.console)
    assert [one.name for one in card.functions] == ["pair.0", "pair.1", "pair.2"]
    assert [one.function_number for one in card.functions] == [0, 1, 2]
    assert all(one.card is card for one in card.functions)
    assert function_names(Pair, "mine") == ["mine.0", "mine.1", "mine.2"]
    card.close()


def test_every_function_of_several_says_so_in_its_header_type() -> None:
    """S2.18: bit 7, which no write changes."""
    card, alone = Pair(), Console()
    for function in card.functions:
        function.config.write(HEADER_TYPE, 1, 0)
        assert function.config.read(HEADER_TYPE, 1) == MULTIFUNCTION
        function.reset(ResetReason.MESSAGE)
        assert function.config.read(HEADER_TYPE, 1) == MULTIFUNCTION
    assert alone.config.read(HEADER_TYPE, 1) == 0
    card.close()
    alone.close()


def test_a_card_of_one_function_is_no_multifunction_device() -> None:
    class Single(Card):
        only = Function(Console)

    card = Single()
    assert card.only.config.read(HEADER_TYPE, 1) == 0
    card.close()


def test_functions_share_the_card_and_nothing_else() -> None:
    """S2.30: a reset of one function leaves the others and the card as they are."""
    card = Pair()
    with LocalClient(card.left) as left, LocalClient(card.right) as right:
        for client, value in ((left, 1), (right, 2)):
            client.enable()
            client.write(0, 0, value)
        assert card.writes == 2
        card.right.reset(ResetReason.MESSAGE)
        assert left.read(0, 0) == 1
        assert card.right.value == 0
        assert card.writes == 2
    card.close()


def test_an_option_reaches_every_function_that_has_it_and_the_card_its_own() -> None:
    card = Pair(speed="7", colour="green", name="mine")
    assert (card.left.speed, card.right.speed, card.colour) == (7, 7, "green")
    assert card.left.name == "mine.0"
    card.close()


def test_defaults_of_options_are_each_function_s_own() -> None:
    class Fast(Port):
        speed = Option(int, 9, "of this port")

    class Both(Card):
        slow = Function(Port)
        fast = Function(Fast)

    card = Both()
    assert (card.slow.speed, card.fast.speed) == (1, 9)
    card.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [({"sped": "1"}, "pair has no option sped; it has speed"), ({"speed": "x"}, "option speed must be a whole number")],
)
def test_an_option_that_cannot_be_leaves_nothing_behind(options: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Pair(**options)
    with pytest.raises(UsageError, match=text):
        power_on(Pair, options)


def test_a_function_that_cannot_be_made_takes_the_others_with_it() -> None:
    """The descriptors of the first function's memory are closed (the fixture counts them)."""

    class Frame(PciDevice):
        identity = PciIdentity(vendor=0x1234, device=0x0003)
        memory = Bar(0, size=4096, backing=True)
        pixels = memory.memory(0, 4096)

    class Broken(Console):
        def on_reset(self) -> None:
            raise RuntimeError("no power")

    class Half(Card):
        first = Function(Frame)
        second = Function(Broken)

    with pytest.raises(RuntimeError, match="no power"):
        Half()


def test_a_function_that_is_not_made_yet_says_so() -> None:
    class Early(Console):
        def on_reset(self) -> None:
            assert isinstance(self.card, Order)
            seen.append(len(self.card.functions))
            if self.function_number == 0:
                with pytest.raises(AttributeError, match=r"Order.second is not made yet"):
                    self.card.second.reset(ResetReason.MESSAGE)

    class Order(Card):
        first = Function(Early)
        second = Function(Early)

    seen: list[int] = []
    Order().close()
    assert seen == [0, 1]


def test_a_card_has_one_to_eight_functions() -> None:
    with pytest.raises(DeclarationError, match="None_: a card must have 1 to 8 functions, not 0"):
        type("None_", (Card,), {})
    with pytest.raises(DeclarationError, match="Many: a card must have 1 to 8 functions, not 9"):
        type("Many", (Card,), {f"f{number}": Function(Console) for number in range(9)})
    card = type("Full", (Card,), {f"f{number}": Function(Console) for number in range(8)})()
    assert [one.function_number for one in card.functions] == list(range(8))
    card.close()


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"functions": Function(Console)}, "functions: must have another name"),
        ({"a": Function(Card)}, "a: a Function must be of a PciDevice class"),  # type: ignore[type-var]
        ({"a": Function(PciDevice)}, "a: a Function must be of a PciDevice class"),
        ({"a": Function(Console), "b": Option(list, [], "?")}, "b: an option's type must be"),
    ],
)
def test_a_card_that_is_declared_wrongly_is_refused(members: dict[str, object], text: str) -> None:
    with pytest.raises(DeclarationError, match=text):
        type("Wrong", (Card,), members)


def test_a_base_class_of_cards_needs_no_functions() -> None:
    class Base(Card, abstract=True):
        colour = Option(str, "red", "of the bracket")

    class Real(Base):
        only = Function(Console)

    card = Real(colour="blue")
    assert card.colour == "blue"
    card.close()


def test_description_is_of_the_card_and_of_each_function() -> None:
    one = describe(Pair)
    assert (one["name"], one["summary"]) == ("pair", "Two ports and a console.")
    assert [option["key"] for option in one["options"]] == ["colour"]
    assert [(function["name"], function["summary"]) for function in one["functions"]] == [
        ("left", "A register that the whole card counts the writes of."),
        ("right", "A register that the whole card counts the writes of."),
        ("console", "Something else on the same card."),
    ]
    assert one["functions"][2]["identity"]["device"] == 0x0002
