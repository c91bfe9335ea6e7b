"""What a session answers is packed at `struct` speed: construct is the specification, and who serves never needs it.

It takes some 40 ms and 2 MiB of a server to import, and 30 to 70 times as long per message (issue 6)."""

import subprocess
import sys

SERVED = """
import os, struct, sys
from tests.native.messages import message, replies
from vfuserver.device.loader import load
from vfuserver.session import FEATURES, COMMANDS, Session

class Timer:
    def cancel(self): pass

device = load("testdev")()
session = Session(device, schedule=lambda *_: Timer(), on_output=lambda: None)
COMMANDS.all(), FEATURES.all()
errors = []

def ask(command, payload=b"", fds=()):
    output = session.feed(message(command, payload), fds)
    errors.extend(error for _, _, _, error, _ in replies(b"".join(data for data, _ in output)))
    for _, sent in output:
        for fd in sent:
            os.close(fd)

ask(1, bytes(4) + b'{"capabilities": {"max_msg_fds": 16}}\\0')
ask(4, struct.pack("=4I", 16, 0, 0, 0))
for region in range(9):
    ask(5, struct.pack("=4I2Q", 4096, 0, region, 0, 0, 0))
for index in range(5):
    ask(7, struct.pack("=4I", 16, 0, index, 0))
ask(8, struct.pack("=5I", 20, 0x24, 2, 0, 1), [os.eventfd(0)])
memory = os.memfd_create("guest")
os.ftruncate(memory, 4096)
ask(2, struct.pack("=2I3Q", 32, 3, 0, 0, 4096), [memory])
ask(16, struct.pack("=2I", 24, 1 << 16 | 1) + bytes(16))
ask(3, struct.pack("=2I2Q", 24, 0, 0, 4096))
ask(13)
session.close("done")
device.close()
print(len(errors), sum(map(bool, errors)), "construct" in sys.modules)
"""


def test_what_a_client_asks_for_is_answered_without_construct() -> None:
    done = subprocess.run([sys.executable, "-c", SERVED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["21", "0", "False"]
