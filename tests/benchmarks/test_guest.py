"""What the room `guest` puts into its guest; nothing is booted, and nothing timed."""

import os
from pathlib import Path

import pytest

from benchmarks import guest
from vfuserver.cli._config import read_config
from vfuserver.session.options import POLL

PEERS = {"LIBVFIO_USER_SO": guest.LIBRARY, "LIBVFIO_USER_SAMPLES": guest.SAMPLE}


@pytest.mark.parametrize("given", [set(), {"LIBVFIO_USER_SO"}, {"LIBVFIO_USER_SO", "LIBVFIO_USER_SAMPLES"}])
def test_columns_are_ours_in_each_mode_and_the_peers_that_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: set[str]
) -> None:
    for name in PEERS:
        monkeypatch.delenv(name, raising=False)
    for name in given:
        monkeypatch.setenv(name, os.devnull)
    devices = list(guest._devices(tmp_path))
    peers = {of for name, of in PEERS.items() if name in given}
    assert {device.server for device in devices} == {*POLL, guest.SINGLY, guest.QEMU, *peers}
    assert len({device.bdf for device in devices}) == len(devices)


@pytest.mark.parametrize("mode", POLL)
def test_the_server_s_configuration_is_one_that_serve_takes(tmp_path: Path, mode: str) -> None:
    for device in guest._devices(tmp_path):
        if device.server == mode:
            _, (one,) = read_config(Path(guest._command(device, tmp_path)[-1]), {})
            assert (one.device, one.session["poll"]) == (device.kind.model, mode)
