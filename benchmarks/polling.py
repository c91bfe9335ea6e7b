"""A polling harness: testdev on a socket, served by a pump that spins, and nothing else: what the code alone costs.

`python -m benchmarks.polling SOCKET` prints one line when it listens, and serves one client after another.
"""

import sys
from pathlib import Path

from vfuserver._core import Pump
from vfuserver.device.loader import load
from vfuserver.engine import listen
from vfuserver.session import Session
from vfuserver.vfio import Backend

SPIN_US = 1_000_000


class NoClock:
    """Deadlines never come: nothing here answers later."""

    def cancel(self) -> None:
        """There is nothing to cancel."""


def serve(path: Path, backend: Backend) -> None:
    """Serves clients until the process is told to end."""
    listener = listen(path)
    listener.socket.setblocking(True)
    print("ready", flush=True)
    while True:
        sock, _ = listener.socket.accept()
        sock.setblocking(False)
        session = Session(backend, schedule=lambda *_: NoClock(), on_output=lambda: None)
        pump = Pump(session.stream, sock.fileno())
        while not pump.run(SPIN_US) & (Pump.EOF | Pump.BROKEN):
            pass
        session.close("the client has closed")
        sock.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), load("testdev")())
