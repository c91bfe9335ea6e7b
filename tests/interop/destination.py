"""Ours in the place of libvfio-user's sample `server`, which its sample client starts from its own folder.

    destination.py DEVICE OPTION... -v SOCKET

The client forks, and the parent becomes this program: so the client is our child, and whoever started it waits for us.
When the client has ended we say so, serve on until our stdin ends, and end as the client did.
"""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(sys.executable).parent / "vfuserver"
SAID = "the client has ended"
MOST_DESCRIPTORS = 1024


def main() -> int:
    """Serves; the client's exit code, or the server's if that is not 0."""
    *options, verbose, socket = sys.argv[1:]
    assert verbose == "-v"
    os.closerange(3, MOST_DESCRIPTORS)  # the client's connection to the source: it is gone when the client is
    starting = f"{socket}.starting"
    words = [str(PROGRAM), "serve", *options, "--socket", starting]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert server.stdout.readline().startswith("ready ")
        os.rename(starting, socket)  # the client connects as soon as it sees it: sometimes before a server listens
        ended, status = os.wait()
        assert ended != server.pid, "the server has ended before its client"
        print(SAID, flush=True)
        sys.stdin.read()
        server.terminate()
    return os.waitstatus_to_exitcode(status) or server.returncode


if __name__ == "__main__":
    sys.exit(main())
