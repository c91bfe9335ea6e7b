"""Topology files: all of them load, and what is made of them is what QEMU is told."""

import json
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from vfuserver.errors import DeclarationError, UsageError
from vfuserver.guest.topology import Plug, load_topology, numbered, parse_topology, qemu_args, topology_names

MINIMAL = 'description = "d"\nmemory = "64M"\narguments = ["-machine", "q35"]\n'


def devices(words: list[str]) -> list[dict[str, object]]:
    described = [word for flag, word in pairwise(words) if flag == "-device" and word[0] == "{"]
    return [json.loads(word) for word in described]


@pytest.mark.parametrize("name", topology_names())
def test_topology_loads_and_fills_every_placeholder(name: str) -> None:
    topology = load_topology(name)
    words = qemu_args(topology, [Path("/run/a.sock"), Path("/run/b.sock")])
    assert topology.description
    assert not [word for word in words if "{memory}" in word or "{directory}" in word or "{index}" in word]
    assert [device["id"] for device in devices(words)] == ["vfu0", "vfu1"]


def test_topologies_promised_in_the_documentation_are_there() -> None:
    expected = {"q35-shared", "q35-messages", "q35-private", "q35-viommu", "q35-hotplug", "q35-nofds"}
    assert expected <= set(topology_names())


def test_qemu_args_of_the_shared_machine_are_exactly_these() -> None:
    words = shlex.join(qemu_args("q35-shared", ["/run/x.sock"]))
    assert words == (
        "-m 512M -machine q35,memory-backend=ram -object memory-backend-memfd,id=ram,size=512M,share=on "
        '-device \'{"driver": "vfio-user-pci", "id": "vfu0", "socket": {"type": "unix", "path": "/run/x.sock"}}\''
    )


def test_qemu_args_with_a_relative_socket_name_it_absolutely(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (device,) = devices(qemu_args("q35-shared", ["x.sock"]))
    assert device["socket"] == {"type": "unix", "path": str(tmp_path / "x.sock")}


def test_device_of_the_hotplug_machine_has_a_port_of_its_own() -> None:
    assert [device["bus"] for device in devices(qemu_args("q35-hotplug", ["/a", "/b"]))] == ["port0", "port1"]


def test_properties_of_a_plug_win_over_the_topology() -> None:
    plug = Plug("nic", "/a", {"bus": "port3", "x-msg-timeout": 2000})
    (device,) = devices(qemu_args("q35-hotplug", [plug]))
    assert (device["id"], device["bus"], device["x-msg-timeout"]) == ("nic", "port3", 2000)


def test_functions_of_a_card_share_a_slot_and_count_as_one_device() -> None:
    """Function 0 first: QEMU refuses a function without it."""
    plugs = [Plug("a", "/a"), Plug("b.0", "/b0", function=0), Plug("b.1", "/b1", function=1), Plug("c", "/c")]
    made = devices(qemu_args("q35-shared", plugs))
    assert [device.get("addr") for device in made] == [None, "0x11.0", "0x11.1", None]
    assert [device.get("multifunction") for device in made] == [None, True, True, None]
    assert [number for number, _ in numbered(plugs)] == [0, 1, 1, 2]


def test_functions_of_a_card_behind_a_root_port_have_its_only_slot() -> None:
    plugs = [Plug("b.0", "/b0", function=0), Plug("b.1", "/b1", function=1)]
    made = devices(qemu_args("q35-hotplug", plugs))
    assert [(device["bus"], device["addr"]) for device in made] == [("port0", "0x0.0"), ("port0", "0x0.1")]


def test_iommu_stands_before_the_devices_it_is_for() -> None:
    words = qemu_args("q35-viommu", ["/a"])
    iommu = next(index for index, word in enumerate(words) if word.startswith("intel-iommu"))
    assert "caching-mode=on" in words[iommu]
    assert iommu < next(index for index, word in enumerate(words) if "vfio-user-pci" in word)


def test_unknown_topology_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match=r"no topology 'q36'; there are: .*q35-shared"):
        load_topology("q36")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('memory = "1M"\narguments = []', "the key description must be there"),
        (MINIMAL + "colour = 1", "the keys must be among .*, not colour"),
        (MINIMAL + 'relay = "yes"', "relay must be a bool, not 'yes'"),
        ("description =", "qemu-configs/mine.toml: "),
    ],
)
def test_wrong_file_is_refused_with_its_name_and_key(text: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        parse_topology("mine", text)
