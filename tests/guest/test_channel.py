"""The command channel against the loop of the guest's own /init, run by this machine's shell on a socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from importlib import resources

import pytest

from vfuserver.guest.channel import LONGEST_COMMAND, Channel
from vfuserver.guest.errors import ChannelError

NOISE = b"firmware \x00\xff banner\nno reply @vfu x\n"


@pytest.fixture
async def guest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Channel]:
    """A channel whose far end is the serving half of payload/init."""
    init = resources.files("vfuserver.guest").joinpath("payload/init").read_text()
    folder = tmp_path_factory.mktemp("init")
    loop = init[init.index("reply() {") : init.index('echo "vfuserver init')].replace("/tmp/", f"{folder}/")
    ours, theirs = socket.socketpair()
    theirs.setblocking(True)
    theirs.sendall(NOISE)
    shell = await asyncio.create_subprocess_exec(
        "bash", "-c", f"exec 3<>/dev/fd/{theirs.fileno()} 2>/dev/null || exec 3<&{theirs.fileno()}\n{loop}",
        pass_fds=[theirs.fileno()],
    )  # fmt: skip
    theirs.close()
    channel = await Channel.open(ours)
    assert await channel.ready() == ""
    yield channel
    await channel.close()
    await shell.wait()


async def test_channel_gives_output_and_code_of_each_command(guest: Channel) -> None:
    done = await guest.run("echo out; echo err >&2; exit 3")
    assert (done.stdout, done.returncode, done.text) == (b"out\nerr\n", 3, "out\nerr\n")
    assert (await guest.run("true")).returncode == 0


async def test_channel_passes_every_byte_unchanged(guest: Channel) -> None:
    done = await guest.run("head -c 100000 /dev/urandom >/dev/null; printf '\\000\\377@vfu 1 0 5\\n\\r\\004'")
    assert done.stdout == b"\0\xff@vfu 1 0 5\n\r\x04"


async def test_channel_takes_commands_of_many_lines_and_quotes(guest: Channel) -> None:
    done = await guest.run("cat <<'END'\na 'b' \"c\" $d\nEND\nfor x in 1 2; do\n  echo $x\ndone")
    assert done.text == "a 'b' \"c\" $d\n1\n2\n"


async def test_channel_kills_a_command_that_takes_too_long(guest: Channel) -> None:
    assert (await guest.run("sleep 100", timeout=1)).returncode in (124, 143)
    assert (await guest.run("echo on")).text == "on\n"


async def test_channel_runs_commands_of_several_tasks_one_after_the_other(guest: Channel) -> None:
    done = await asyncio.gather(*(guest.run(f"echo {number}") for number in range(5)))
    assert [each.text for each in done] == [f"{number}\n" for number in range(5)]


async def test_command_that_is_too_long_is_refused_before_it_is_sent(guest: Channel) -> None:
    with pytest.raises(ChannelError, match=f"at most {LONGEST_COMMAND}"):
        await guest.run("x" * (LONGEST_COMMAND + 1))


async def test_channel_whose_guest_restarts_says_so() -> None:
    ours, theirs = socket.socketpair()
    channel = await Channel.open(ours)
    theirs.sendall(b"@vfu 0 0 4\nboot")
    with pytest.raises(ChannelError, match="restarted"):
        await channel.run("true")
    theirs.close()
    with pytest.raises(ChannelError, match="closed"):
        await channel.run("true")
    await channel.close()
