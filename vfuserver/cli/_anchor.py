"""What is left of a server that another process has taken over from, where it was the first: the process that a shell,
systemd or a script has started, and waits for, or signals.

It is a program of its own, of the standard library alone, which the first server becomes (exec): it passes signals on
to its children, is made the parent of their children when they end, and ends as the last one of them did.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
PASSED_ON = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})
ENDING = (signal.SIGTERM, signal.SIGINT)
SIGNALS = PASSED_ON | {signal.SIGCHLD}


def adopt_orphans() -> None:
    """From now on the children of our children are ours, when those end (prctl(2))."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        sys.exit(f"vfuserver: prctl: {os.strerror(ctypes.get_errno())}")


def children() -> list[int]:
    """The processes that are ours to wait for."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()]


def reap(last: int) -> tuple[int, bool]:
    """Takes in children that have ended: the wait status of the last one (else `last`), and whether any lives."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return last, False
        if not pid:
            return last, True
        last = status


def end_as(status: int) -> None:
    """Ends this process as a child with this wait status has ended."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def main() -> None:
    """Until the last child has ended."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    adopt_orphans()
    told: dict[int, set[int]] = {number: set() for number in ENDING}
    status, alive = reap(0)
    while alive:
        number = signal.sigwait(SIGNALS)
        if number in PASSED_ON:
            for pid in children():
                os.kill(pid, number)
        if number in ENDING:
            told[number] |= set(children())
        status, alive = reap(status)
        for asked in ENDING:  # who was told may have had a child of its own by then, which is ours now
            for pid in children() if told[asked] else ():
                if pid not in told[asked]:
                    told[asked].add(pid)
                    os.kill(pid, asked)
    end_as(status)


if __name__ == "__main__":
    main()
