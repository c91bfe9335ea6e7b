"""A child process that is run one machine instruction at a time, so that a test can look at what a kill there leaves.

It knows Linux's ptrace, and nothing of what the child does.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from typing import Final

TRACEME: Final = 0
SINGLESTEP: Final = 9
libc: Final = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class TracingRefusedError(Exception):
    """This machine does not let a process trace its own child."""


def _ptrace(request: int, pid: int) -> None:
    if libc.ptrace(request, pid, None, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _run(work: Callable[[], None]) -> None:
    """In the child: `work` begins and ends with a stop."""
    code = 2
    try:
        _ptrace(TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        code = 1
        work()
        code = 0
        os.kill(os.getpid(), signal.SIGSTOP)
    finally:
        os._exit(code)


def steps(work: Callable[[], None]) -> Iterator[int]:
    """Forks, and yields a count before `work` and after every instruction of it; the child ends with the last one."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})  # to and fro on one processor is three times as fast
    pid = os.fork()
    if pid == 0:
        _run(work)
    count = 0
    _, status = os.waitpid(pid, 0)
    try:
        while os.WIFSTOPPED(status):
            yield count
            if count and os.WSTOPSIG(status) == signal.SIGSTOP:
                return
            libc.ptrace(SINGLESTEP, pid, None, None)
            _, status = os.waitpid(pid, 0)
            count += 1
        if os.waitstatus_to_exitcode(status) == 2:
            raise TracingRefusedError
        raise AssertionError(f"the child ended with status {status} after {count} instructions")
    finally:
        os.sched_setaffinity(0, cpus)
        if os.WIFSTOPPED(status):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
