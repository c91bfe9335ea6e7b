"""The control socket as anybody may treat it: devices are served on, and nothing is left (S4.26)."""

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from tests.control.conftest import Asker, controlled
from tests.engine.conftest import raw
from tests.native.messages import NO_REPLY, message, read, write
from vfuserver import PciDevice, PciIdentity
from vfuserver.client import Client, GuestMemory
from vfuserver.control.server import MOST_CLIENTS, MOST_REQUEST

INSPECT = b'{"command": "inspect"}\n'


async def test_many_requests_on_one_connection_are_answered_in_order(served: Path) -> None:
    asker = await Asker.connect(served)
    await asker.send(INSPECT + b'{"command": "areas", "arguments": {"space": 999999}}\n' + INSPECT[:9])
    assert (await asker.answer())["result"]["devices"][0]["name"] == "testdev"
    assert await asker.answer() == {"error": "ENOENT: there is no ioas 999999", "usage": False}
    assert "result" in await asker.ask(INSPECT[9:])
    await asker.close()


async def test_several_ask_at_once_and_one_too_many_is_turned_away(served: Path) -> None:
    askers = [await Asker.connect(served) for _ in range(MOST_CLIENTS)]
    await asyncio.gather(*(asker.send(INSPECT) for asker in askers))
    assert all(["result" in await asker.answer() for asker in askers])
    late = await Asker.connect(served)
    assert await late.ended()
    for asker in (late, *askers):
        await asker.close()


@pytest.mark.parametrize(
    ("request_line", "text"),
    [
        (b"\n", "a request must be a line of JSON"),
        (b"\xff\xfe\n", "a request must be a line of JSON"),
        (b"[" * 60000 + b"\n", "a request must be a line of JSON"),
        (b"7\n", "a request must be a JSON object, not 7"),
        (b"{}\n", "command must be one of areas, inspect, upgrade, not None"),
        (b'{"command": "explode"}\n', "not 'explode'"),
        (b'{"command": ["inspect"]}\n', "command must be one of"),
        (b'{"command": "inspect", "arguments": 1}\n', "inspect: arguments must be a JSON object, not 1"),
        (b'{"command": "inspect", "arguments": {"x": 1}}\n', "inspect has no argument x; it has none"),
        (b'{"command": "areas"}\n', "areas: the arguments space must be there"),
        (b'{"command": "areas", "arguments": {"space": true}}\n', "space must be of type int, not True"),
        (b'{"command": "areas", "arguments": {"space": 1, "iova": -1}}\n', "iova must be less than 2**64, not -1"),
    ],
)
async def test_request_that_cannot_be_is_refused_and_the_next_one_answered(
    served: Path, request_line: bytes, text: str
) -> None:
    asker = await Asker.connect(served)
    answer = await asker.ask(request_line)
    assert text in answer["error"]
    assert answer["usage"]
    assert "result" in await asker.ask(INSPECT)
    await asker.close()


async def test_endless_request_is_refused_and_the_client_dropped(served: Path) -> None:
    asker = await Asker.connect(served)
    await asker.send(b" " * MOST_REQUEST)
    assert (await asker.answer())["error"] == f"a request must have at most {MOST_REQUEST} bytes"
    assert await asker.ended()
    await asker.close()


@pytest.mark.parametrize("start", [b"", b'{"comm'])
async def test_silent_client_is_dropped(impatient: Path, start: bytes) -> None:
    asker = await Asker.connect(impatient)
    await asker.send(start)
    assert await asker.ended()
    await asker.close()


async def test_client_that_does_not_read_is_dropped_and_devices_are_served_on(
    impatient: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asker = await Asker.connect(impatient)
    asker.writer.transport.pause_reading()  # type: ignore[attr-defined]
    asker.writer.write(INSPECT * 2000)
    async with await Client.connect(impatient) as client:
        await client.enable()
        while "a control client is dropped" not in caplog.text:
            assert await client.region_read(0, 0, 4) == b"TEST"
    asker.writer.transport.abort()


async def test_client_that_leaves_without_its_answer_is_forgotten(served: Path) -> None:
    for _ in range(3 * MOST_CLIENTS):
        asker = await Asker.connect(served)
        await asker.send(INSPECT)
        await asker.close()
        async with await Client.connect(served) as client:  # the server has had its turn
            await client.device_info()
    asker = await Asker.connect(served)
    assert "result" in await asker.ask(INSPECT)
    await asker.close()


async def test_server_that_stops_hangs_up(served: Path) -> None:
    """The fixture ends with this client connected, and counts what is left."""
    asker = await Asker.connect(served)
    assert "result" in await asker.ask(INSPECT)
    asker.writer.close()


async def test_connection_is_shown_before_version_and_with_what_its_client_does_not_read(served: Path) -> None:
    asker, client = await Asker.connect(served), raw(served)
    shown = await connection(asker)
    assert (shown["state"], shown["received"], shown["peer_pid"]) == ("before VERSION", 0, os.getpid())
    client.setblocking(False)
    client.send(message(1, b"\0\0\0\0") + write(4, b"\x07\0", region=7, flags=NO_REPLY))
    client.send(b"".join(read(0, 65536, region=2, tag=tag) for tag in range(100)))
    while not (shown := await connection(asker))["queued"]:
        pass
    assert shown["state"] == "negotiated"
    assert shown["client"]["max_msg_fds"] == 1
    client.close()
    await asker.close()


async def connection(asker: Asker) -> dict[str, Any]:
    """The one client, once the server has accepted it."""
    while (found := (await asker.ask(INSPECT))["result"]["devices"][0]["connection"]) is None:
        pass
    assert isinstance(found, dict)
    return found


class Confused(PciDevice):
    identity = PciIdentity(0x1234, 1)

    def dump(self) -> dict[str, Any]:
        raise RuntimeError("no idea")


async def test_device_that_fails_to_describe_itself_is_shown_as_that(folder: Path) -> None:
    async with controlled(Confused(), folder / "c.sock") as path:
        asker = await Asker.connect(path)
        (device,) = (await asker.ask(INSPECT))["result"]["devices"]
        assert device == {"name": "confused", "error": "RuntimeError('no idea')"}
        await asker.close()


async def test_answer_is_bounded_however_much_a_client_maps(served: Path) -> None:
    async with await Client.connect(served) as client:
        memory = client.own(GuestMemory(4096))
        for start in range(0, 65535, 4096):
            many = range(start, min(start + 4096, 65535))
            await asyncio.gather(*(client.dma_map(number * 8192, memory, share=False) for number in many))
        asker = await Asker.connect(served)
        found = await asker.ask(INSPECT)
        space = found["result"]["spaces"][-1]
        assert (space["count"], len(space["areas"])) == (65535, 256)
        assert len(json.dumps(found)) < 1 << 16
        areas = {"command": "areas", "arguments": {"space": space["id"], "iova": 65534 * 8192 - 1}}
        (last,) = (await asker.ask(json.dumps(areas).encode() + b"\n"))["result"]
        assert last["iova"] == 65534 * 8192
        await asker.close()
