"""Every state from every state through sockets, for every device and every way of offering it, by both faces: states
and errors as they are answered, arcs as they are logged."""

import errno
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.engines import CHOSEN
from tests.interop import raw_client as raw
from tests.interop.conftest import Server, model
from tests.session.migration_oracle import ASKED, BOTH, OFFERS, Arcs, F, Offer, S
from vfuserver.engine.choice import DEFAULT
from vfuserver.vfio import MigrationState

GET, SET = 1 << 16, 1 << 17
MIGRATION, DEVICE_STATE = 1, 2
VALUES = (*S, 8, 0xABCD)
REGION, STATE, PENDING, OFFSET, SIZE = 9, 0, 8, 16, 24
MOST = 1 << 20
MODELS = {
    F.STOP_COPY: "WithoutPeers",
    F.STOP_COPY | F.P2P: "Moving",
    F.STOP_COPY | F.PRE_COPY: "AheadWithoutPeers",
    F.STOP_COPY | F.P2P | F.PRE_COPY: "MovingAhead",
}
SERVED = OFFERS if CHOSEN == DEFAULT else [offer for offer in OFFERS if offer.hidden and offer.migration == "both"]
"""libvfio-user has PRE_COPY for every device and P2P for none, as ours with P2P hidden and version 1 beside version 2,
which alone it offers."""
TOLD = {S.ERROR} if CHOSEN == DEFAULT else set()
"""States that are seen in nothing but their own telling."""


class Devices:
    """One server with a device for every offer; `arcs` are those of one since it was last asked."""

    def __init__(self, server: Server, log: Path) -> None:
        self._server, self._log, self._read = server, log, 0

    def path(self, offer: Offer) -> str:
        return self._server.paths[SERVED.index(offer)]

    def arcs(self, offer: Offer) -> Arcs:
        """Those that the device did: without a pre-copy of its own it does none where version 1 has one."""
        with self._log.open() as file:
            file.seek(self._read)
            found = re.findall(r"migration: (\w+) to (\w+) in ", file.read())
            self._read = file.tell()
        arcs = [(MigrationState[old], MigrationState[new]) for old, new in found]
        return [(old, new) for old, new in arcs if offer.plain(old) is not offer.plain(new)]


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devices]:
    folder = tmp_path_factory.mktemp("devices")
    paths = [str(folder / f"{number}") for number in range(len(SERVED))]
    tables = [
        f'[[device]]\ndevice = "{model(MODELS[offer.flags])}"\nsocket = "{path}"\nname = "moving-{number}"\n'
        f'migration = "{offer.migration if CHOSEN == DEFAULT else "v2"}"\n'
        f"hide-peer-to-peer = {str(offer.hidden).lower()}\n"
        for number, (offer, path) in enumerate(zip(SERVED, paths, strict=True))
    ]
    (folder / "devices.toml").write_text('log-level = "info"\n' + "".join(tables))
    arguments = ["--config", str(folder / "devices.toml")]
    with (folder / "log").open("wb") as log, Server(folder, log, arguments, paths) as running:
        yield Devices(running, folder / "log")


# -- the faces


class Face(Protocol):
    """What both can do."""

    client: raw.Client

    def move(self, value: int) -> int:
        """Asks for a state; the errno."""

    def state(self) -> MigrationState: ...

    def save(self) -> bytes: ...

    def load(self, data: bytes) -> None: ...


def refusal(client: raw.Client, command: int, payload: bytes) -> int:
    """Whatever follows the header of an error reply: other tests look at that."""
    ident = client.send(command, payload)
    message = client.receive()
    assert (message.ident, message.flags & raw.TYPE) == (ident, raw.REPLY)
    return message.error


class Version2:
    """Features and MIG_DATA_READ, MIG_DATA_WRITE."""

    def __init__(self, client: raw.Client) -> None:
        self.client = client

    def get(self, feature: int) -> bytes:
        reply = self.client.request(raw.DEVICE_FEATURE, struct.pack("=II", 16, feature | GET))
        assert struct.unpack_from("=II", reply.payload) == (16, feature | GET)
        return reply.payload[8:]

    def move(self, value: int) -> int:
        asked = struct.pack("=IIIi", 16, DEVICE_STATE | SET, value, -1)
        return refusal(self.client, raw.DEVICE_FEATURE, asked)

    def state(self) -> MigrationState:
        return MigrationState(struct.unpack_from("=I", self.get(DEVICE_STATE))[0])

    def save(self) -> bytes:
        payload = self.read()
        argsz, size = struct.unpack_from("=II", payload)
        assert argsz == 8 + size <= len(payload)
        return payload[8:argsz]

    def read(self) -> bytes:
        """A reply's payload."""
        return self.client.request(raw.MIG_DATA_READ, struct.pack("=II", 8 + MOST, MOST)).payload

    def load(self, data: bytes) -> None:
        self.client.request(raw.MIG_DATA_WRITE, struct.pack("=II", 8 + len(data), len(data)) + data)


class Version1:
    """The region; states are those that its bits mean."""

    def __init__(self, client: raw.Client) -> None:
        self.client = client

    def move(self, value: int) -> int:
        """`value` is a state of version 2, for the steps on the way to a case."""
        return self.write(BOTH[S(value)])

    def write(self, bits: int) -> int:
        return refusal(self.client, raw.REGION_WRITE, raw.ACCESS.pack(STATE, REGION, 4) + struct.pack("=I", bits))

    def state(self) -> MigrationState:
        bits = self.client.read(REGION, STATE)
        return next(state for state, shown in BOTH.items() if shown == bits)

    def save(self) -> bytes:
        assert self.client.read(REGION, PENDING, 8)
        at, size = (self.client.read(REGION, register, 8) for register in (OFFSET, SIZE))
        data = self.client.read_bytes(REGION, at, size)
        assert self.client.read(REGION, PENDING, 8) == 0
        return data

    def load(self, data: bytes) -> None:
        self.client.write_bytes(REGION, self.client.read(REGION, OFFSET, 8), data)
        self.client.write(REGION, SIZE, len(data), 8)


def stand(face: Face, where: MigrationState) -> None:
    """Brings a device there, from a reset; in RESUMING it has got all that it needs to leave."""
    if where is S.RESUMING:
        offer_state(face, broken=0)
    elif where is S.ERROR:  # what is there the model fails at (S3.8)
        offer_state(face, broken=1)
        assert face.move(S.STOP) == errno.EIO
    else:
        reset(face)
        assert face.move(where) == 0
    assert face.state() is where


def reset(face: Face) -> None:
    """libvfio-user refuses it while the device is in STOP."""
    if CHOSEN != DEFAULT:
        face.move(S.RUNNING)
    face.client.reset()


def offer_state(face: Face, broken: int) -> None:
    """Saves the device with this in its register, and writes that to itself."""
    reset(face)
    face.client.write(raw.BAR0, 0, broken)
    assert face.move(S.STOP_COPY) == 0
    data = face.save()
    assert face.move(S.RESUMING) == 0
    face.load(data)


# -- the matrices


def by(*faces: str) -> list[Offer]:
    return [offer for offer in SERVED if offer.migration in faces]


@pytest.mark.parametrize("offer", by("v2", "both"), ids=lambda offer: offer.name)
def test_matrix_of_version_2_through_a_socket(devices: Devices, offer: Offer) -> None:
    """S3.2, S3.3, S3.4, S3.5, S3.6, S3.8."""
    with raw.Client(devices.path(offer)) as client:
        face = Version2(client)
        assert struct.unpack("=Q", face.get(MIGRATION)) == (offer.told,)
        for old in offer.states | TOLD:
            for value in VALUES:
                stand(face, old)
                devices.arcs(offer)
                expected = offer.arcs(old, value)
                assert face.move(value) == (errno.EINVAL if expected is None else 0), (old, value)
                assert devices.arcs(offer) == (expected or []), (old, value)
                assert face.state() is (old if expected is None else value)


@pytest.fixture
def face(devices: Devices) -> Iterator[Version2]:
    """Of one device, just reset."""
    with raw.Client(devices.path(by("v2", "both")[0])) as client:
        made = Version2(client)
        reset(made)
        yield made


def test_mig_data_read_is_answered_with_what_there_is(face: Version2) -> None:
    """S3.11: a reply is no longer than its data."""
    assert face.move(S.STOP_COPY) == 0
    payload = face.read()
    assert struct.unpack_from("=II", payload) == (len(payload), len(payload) - 8)


def test_state_is_told_without_a_descriptor(face: Version2) -> None:
    """S3.3."""
    assert struct.unpack("=Ii", face.get(DEVICE_STATE)) == (S.RUNNING, -1)


def test_state_that_is_refused_is_error_until_a_reset(face: Version2) -> None:
    """S3.7, S3.8."""
    stand(face, S.ERROR)
    assert face.move(S.RUNNING) == errno.EINVAL
    face.client.reset()
    assert face.state() is S.RUNNING


@pytest.mark.parametrize("offer", by("v1", "both") if CHOSEN == DEFAULT else [], ids=lambda offer: offer.name)
def test_matrix_of_version_1_through_a_socket(devices: Devices, offer: Offer) -> None:
    """S3.1, S3.27: all 16 values from all 16; those that cannot be reached leave the device where it is."""
    with raw.Client(devices.path(offer)) as client:
        face = Version1(client)
        for first in range(16):
            for second in range(16):
                here = first_state(face, offer, first)
                devices.arcs(offer)
                wanted = ASKED.get(second)
                expected = None if wanted is None else offer.arcs(here, wanted)
                assert face.write(second) == (errno.EINVAL if expected is None else 0), (here, second)
                assert devices.arcs(offer) == (expected or []), (here, second)
                here = here if expected is None or wanted is None else wanted
                assert face.state() is here
                if offer.migration == "both":
                    assert Version2(client).state() is here


def first_state(face: Version1, offer: Offer, bits: int) -> MigrationState:
    """Writes a first value, as far as that is legal; where the device is then."""
    wanted = S.ERROR if bits == BOTH[S.ERROR] else ASKED.get(bits)
    if wanted in (S.ERROR, S.RESUMING):
        stand(face, wanted)
        return wanted
    stand(face, S.RUNNING)
    legal = wanted is not None and offer.arcs(S.RUNNING, wanted) is not None
    assert face.write(bits) == (0 if legal else errno.EINVAL)
    return wanted if legal and wanted is not None else S.RUNNING
