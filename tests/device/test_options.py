"""Options: what --set takes, and what it says when it cannot."""

import pytest

from vfuserver import Option, PciDevice, PciIdentity, UsageError


class Optional(PciDevice):
    """One option of each type."""

    identity = PciIdentity(vendor=0x1234, device=0x0007)
    loop_back = Option(bool, False, "inputs follow outputs")
    size = Option(int, 16, "bytes")
    speed = Option(float, 1.5, "how fast")
    mode = Option(str, "a", "which", choices=("a", "b"))


def test_defaults_hold_without_options() -> None:
    device = Optional()
    assert (device.loop_back, device.size, device.speed, device.mode) == (False, 16, 1.5, "a")


def test_text_is_parsed_and_dashes_are_underscores() -> None:
    device = Optional(**{"loop-back": "yes", "size": "0x20", "speed": "2", "mode": "b"})
    assert (device.loop_back, device.size, device.speed, device.mode) == (True, 32, 2.0, "b")


def test_typed_values_are_taken() -> None:
    assert Optional(size=3, loop_back=True).size == 3


def test_unknown_option_names_the_legal_ones() -> None:
    with pytest.raises(UsageError) as raised:
        Optional(colour="red")
    assert "optional has no option colour; it has loop-back (yes or no), size (a whole number" in str(raised.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"loop-back": "perhaps"}, "option loop-back must be yes or no, not 'perhaps'"),
        ({"size": "many"}, "option size must be a whole number"),
        ({"mode": "c"}, "option mode must be a or b, not 'c'"),
        ({"speed": "fast"}, "option speed must be a number"),
    ],
)
def test_impossible_value_says_what_is_legal(given: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError) as raised:
        Optional(**given)
    assert says in str(raised.value)
