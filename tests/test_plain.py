"""Descriptors among plain data; the data themselves are tested where streams are."""

import pytest

from vfuserver.errors import CommandError, LocalError
from vfuserver.plain import Descriptor, decode, encode


def test_descriptors_travel_beside_the_bytes_in_order() -> None:
    fds: list[int] = []
    data = encode({"first": Descriptor(7), "rest": [Descriptor(5), 1, (Descriptor(7),)]}, fds)
    assert fds == [7, 5, 7]
    assert decode(data, [17, 15, 18]) == {"first": Descriptor(17), "rest": [Descriptor(15), 1, (Descriptor(18),)]}


def test_descriptor_in_what_must_outlive_the_process_is_refused() -> None:
    with pytest.raises(LocalError, match="plain data, not Descriptor"):
        encode([Descriptor(3)])


@pytest.mark.parametrize("fds", [[], [3, 4]])
def test_descriptors_of_another_number_are_refused(fds: list[int]) -> None:
    data = encode([Descriptor(3)], [])
    with pytest.raises(CommandError, match="descriptor"):
        decode(data, fds)
