"""The compiled core: framing, register tables, the IOVA table, eventfds. It knows bytes, offsets and masks.

It must not know: PCI capabilities, what a session negotiates, event loops. Plain C lives in native/core (no Python in
it: that is what sanitizers and fuzzers link), the binding in native/binding.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypedDict

from typing_extensions import Buffer

# -- gate ---------------------------------------------------------------------------------------------------------

class Gate:
    """One device's gate word: what COMMAND and the migration machine allow at this moment.

    Configuration space and the migration machine write it; tables, DMA and interrupts read it.
    """

    IO: Final[int]  # = 1: COMMAND bit 0, I/O BARs answer
    MEMORY: Final[int]  # = 2: COMMAND bit 1, memory BARs answer
    MASTER: Final[int]  # = 4: COMMAND bit 2, DMA and message-signalled interrupts leave the device
    RUNNING: Final[int]  # = 0x100: migration state lets the device act
    QUIET: Final[int]  # = 0x200: registers answer, but no DMA begins and no interrupt leaves (S3.10)

    word: int
    refused: int  # accesses answered with all-ones or dropped because a bit was clear (S0.16)

    def __init__(self, word: int = 0x100) -> None: ...
    def set(self, bits: int) -> None: ...
    def clear(self, bits: int) -> None: ...
    def shows(self, mask: int, bits: int, /) -> bool:
        """Whether word & mask == bits."""

# -- register tables ----------------------------------------------------------------------------------------------

RegisterRow: TypeAlias = tuple[
    int,  # offset in the region, a multiple of width
    int,  # width in bytes: 1, 2, 4, 8
    int,  # count: consecutive elements (1: a plain register)
    bytes,  # reset image, width * count bytes, little endian (empty for MEMORY that every instance brings itself)
    int,  # readable: bits that a read returns (the others read 0)
    int,  # read_clear: bits that a read clears
    int,  # store: bits that a write stores
    int,  # write_1_clear
    int,  # write_1_set
    int,  # flags, below
]

COUNT: Final[int]  # = 1: each write adds one to the stored value, whatever is written
STRICT: Final[int]  # = 2: only accesses of the native width and alignment; any other piece is EINVAL
SPLIT_HIGH: Final[int]  # = 4: (width 8) halves are latched; the write takes effect when the high half is written
SPLIT_LOW: Final[int]  # = 8: (width 8) likewise, when the low half is written
MEMORY: Final[int]  # = 16: plain memory of width * count bytes, copied whole, any width and alignment; no hooks
READ_HOOK: Final[int]  # = 32: Table's hooks[i][0] answers reads
WRITE_HOOK: Final[int]  # = 64: Table's hooks[i][1] sees writes
READ_ONLY: Final[int]  # = 128: (with MEMORY) writes are dropped
LATEST: Final[int]  # = 256: (with WRITE_HOOK) writes that came together are one call, with the last value
ALL: Final[int]  # = 512: (with WRITE_HOOK) likewise, with a list of all values

class Layout:
    """An immutable register map, made once per device class and shared by its instances.

    Rows are sorted by offset and must not overlap, nor lie beyond `size` (DeclarationError). A region offset that no
    row covers is undeclared: it reads zero, drops writes, and is counted.
    """

    size: Final[int]
    bank_size: Final[int]

    def __init__(self, size: int, rows: Sequence[RegisterRow]) -> None: ...
    def index_at(self, offset: int) -> int:
        """The index of the row that covers `offset`, or -1."""

ReadHook: TypeAlias = Callable[..., Any]
"""`hook()`, or `hook(element)` where count > 1. Returns the value (0 <= value < 2**(8*width)), None for the stored
value, or any other object: "later", the access is answered by Stream.complete()."""
WriteHook: TypeAlias = Callable[..., Any]
"""`hook(value)`, or `hook(element, value)`. The whole register's value: a narrow write is merged into the stored one
(bytes that were not written are zero where bits are write-1-to-clear/-set). Returns the value to store, None to
store what was written (through the row's masks), or any other object: "later"."""

class Table:
    """One instance's registers behind a layout: a bank of values, bound hooks, perhaps somebody else's memory.

    An access is cut into the largest naturally aligned pieces (8, 4, 2, 1 bytes) that stay inside one register or
    one gap. A STRICT register reached by an illegal piece makes the whole access EINVAL before any effect. While
    the gate lacks a bit of `needs`, reads are all-ones, writes are dropped and `gate.refused` grows. While the gate
    lacks RUNNING no hook runs: reads give the stored value, writes are dropped (S3.9).
    """

    undeclared: int  # accesses (pieces) to undeclared offsets
    on_undeclared: Callable[[int, int, int | None], None] | None  # (offset, width, value written or None)
    layout: Final[Layout]

    def __init__(
        self,
        layout: Layout,
        hooks: Mapping[int, tuple[ReadHook | None, WriteHook | None]] = ...,  # row index -> (read, write)
        *,
        memory: Mapping[int, object] = ...,  # MEMORY row index -> writable buffer (an mmap) that backs it
        gate: Gate | None = None,
        needs: int = 0,
    ) -> None: ...
    def read(self, offset: int, count: int) -> bytes:
        """As a client's REGION_READ. CommandError(EINVAL) for count 0 or beyond the region, a hook's CommandError,
        CommandError(EIO) after a hook's other exception, LocalError for an asynchronous register."""
    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """As a client's REGION_WRITE; errors as read()."""
    def get(self, row: int, element: int = 0) -> int:
        """The stored value, without hooks or side effects."""
    def set(self, row: int, element: int, value: int) -> None:
        """Stores a value, without hooks and masks."""
    def reset(self) -> None:
        """Every value back to its reset image, latches dropped, `undeclared` = 0. External memory is not touched."""
    def snapshot(self, row: int) -> bytes:
        """All bytes of a row, width * count of them."""
    def restore(self, row: int, data: bytes) -> None: ...
    def latched(self, row: int) -> int | None:
        """What a split register will hold when its other half is written; None: no half waits."""
    def latch(self, row: int, value: int | None) -> None:
        """Sets what latched() gave."""

# -- the client's memory ------------------------------------------------------------------------------------------

PROT_READ: Final[int]  # = 1, as DMA_MAP's flag bits
PROT_WRITE: Final[int]  # = 2
ACCESS_MESSAGES: Final[int]  # = 0: an area is not reached here, but by DMA_READ and DMA_WRITE
ACCESS_MAPPED: Final[int]  # = 1
ACCESS_FILE: Final[int]  # = 2: by file I/O on the client's descriptor, each access a system call

TRUSTED: Final[int]  # = 0: what is mapped of a file is what the client itself sees
UNPROVEN: Final[int]  # = 1: not known yet; plain accesses to it say that messages are needed
REFUSED: Final[int]  # = 2: the client has a private copy: areas of the file are reached by messages

LOAD: Final[int]  # = 0, the operations of Ioas.atomic()
STORE: Final[int]
SWAP: Final[int]
ADD: Final[int]
OR: Final[int]
AND: Final[int]
COMPARE: Final[int]  # stores the operand if `expected` was there

class Ioas:
    """An I/O address space: areas [iova, iova + size) over files mapped (or kept open) once for the whole process, or
    over memory that only messages reach. Accesses release the GIL when they are large or may be file I/O, and never
    touch memory outside an area."""

    count: Final[int]  # areas
    mapped: Final[int]  # bytes in all areas
    pins: Final[int]  # views
    logging: Final[bool]  # whether writes are logged
    unreported: Final[int]  # dirty pages that were unmapped before anybody asked for them
    new_files: int  # TRUSTED, UNPROVEN or REFUSED: what a file is when it is first seen here

    def __init__(
        self, gate: Gate | None = None, *, max_areas: int = 65535, max_pins: int = 1024, max_bytes: int = 2**64 - 1
    ) -> None: ...
    def map(self, iova: int, size: int, prot: int, fd: int = -1, offset: int = 0, ways: int = 1) -> None:
        """Adds an area over a file, reached in the first of `ways` (ACCESS_MAPPED | ACCESS_FILE) that it allows, or by
        messages. The caller keeps `fd` (one duplicate is kept for every file). CommandError: EINVAL (size 0, wrap, no
        permission, reserved or not allowed, file too short; file I/O on a pipe, a socket, a directory, or writing with
        O_APPEND), EEXIST (overlap), EPERM (`fd` was not opened for that), ENOSPC (max_areas, max_bytes, or a quarter
        of the process's descriptors is kept for files), or mmap's own."""
    def map_foreign(self, iova: int, size: int, prot: int, address: int) -> None:
        """Adds an area over shared memory that somebody else has mapped at `address` of this process, and keeps mapped
        until the area is removed and views of it are revoked. Pages that vanish are EFAULT as those of a file. Its
        source has neither device nor inode. CommandError: EINVAL, EEXIST, ENOSPC as map()."""
    def hole(self, size: int, alignment: int = 4096) -> int:
        """The lowest free, allowed IOVA above 0 for `size` bytes. CommandError: ENOSPC, EINVAL."""
    def share(self, iova: int, size: int, other: Ioas, other_iova: int, prot: int) -> None:
        """Gives another space (or this one) the same areas at another address; the range must be covered by whole
        areas. CommandError: ENOENT (a hole, or an area is cut), EPERM (wider than the area's), or as map(); then
        nothing is added."""
    def unmap(self, iova: int, size: int) -> int:
        """Removes every area wholly inside the range and returns how many. ENOENT: none there, or one is cut (then
        nothing is removed). An end of exactly 2**64 is no wrap. Accesses under way are waited for; views stay as they
        are until revoke()."""
    def clear(self) -> int:
        """Removes every area and revokes every view; how many areas there were."""
    def drain(self) -> None:
        """Waits until accesses under way are through: later ones see the gate as it is now."""
    def areas(self, iova: int = 0, most: int = ..., /) -> list[tuple[int, int, int, int, int, int]]:
        """(iova, size, prot, ACCESS_*, source id or 0, offset in the source) in order of iova: those that have a byte
        at or after `iova`, the first `most` of them, which default to all."""
    def allow(self, spans: Iterable[tuple[int, int]]) -> None:
        """The IOVAs (first, last) that may be mapped; none: all. CommandError: EINVAL (first >= last, overlap),
        EADDRINUSE (an area lies outside, or a reserved span inside)."""
    def reserve(self, spans: Iterable[tuple[int, int]]) -> None:
        """IOVAs (first, last) that must not be mapped. CommandError as allow()."""
    def trust(self, source: int, trust: int) -> None:
        """What is known about a file from now on. CommandError(ENOENT): it has no area here."""
    def files(self, most: int = ..., /) -> list[tuple[int, int, int]]:
        """(source id, areas, trust) of every file in use, or of `most` of them."""
    def log(self, spans: Iterable[tuple[int, int]]) -> None:
        """Logs writes inside (first, last) spans, or all. CommandError: EALREADY, EINVAL (first >= last, overlap)."""
    def log_stop(self) -> None:
        """CommandError(ENOENT): writes are not logged."""
    def report(self, iova: int, pages: int, shift: int) -> bytearray:
        """Takes the bits of `pages` pages of 1 << shift (at least 12) bytes: bit n is page iova + (n << shift), in
        whole little-endian u64 words. CommandError: ENOENT, EINVAL (beyond 2**64, or
        `iova` is no multiple of 4096)."""
    def carry(self) -> tuple[bytes, list[tuple[int, int, int, int, int]]]:
        """What another process must know to reach the same memory: all areas, packed, and (source id, fd, prot,
        ACCESS_*, trust) of every file in which they lie. Nothing changes: the descriptors stay the space's.

        An area takes 40 bytes, little endian: u64 iova, size, offset, u32 prot, ACCESS_*, u64 source id. Source 0: only
        messages reach it; any other with ACCESS_MESSAGES: its file was cut, it stays dead. Limits, allowed and reserved
        spans, and views are not among it. LocalError: an area of map_foreign(), as that has no descriptor."""
    def adopt(self, areas: Buffer, files: Sequence[tuple[int, int, int, int, int]]) -> None:
        """Puts what carry() gave into an empty space; sources get ids of this process. The caller keeps the
        descriptors. Areas of a file that was cut meanwhile are dead. ValueError: no whole areas; LocalError: there are
        areas; CommandError: EINVAL (areas out of order, or other than their file), or as map(); then it is empty."""
    def carry_log(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]], int] | None:
        """(spans logged, dirty pages, `unreported`), or None: writes are not logged. Nothing is taken by it. Dirty
        pages are runs (first byte, last byte) in order, at most 8192, with clean ones among them if there would be
        more; one run over all 2**64 bytes says that everything counts as dirty."""
    def adopt_log(self, spans: Iterable[tuple[int, int]], runs: Iterable[tuple[int, int]], unreported: int) -> None:
        """Logs from where carry_log() was. CommandError as log(), EINVAL also for a run that ends before it begins."""
    def pinned(self, iova: int, last: int) -> int:
        """How many views touch [iova, last]."""
    def revoke(self, iova: int, last: int) -> int:
        """Puts zeros into every view that touches [iova, last]; how many."""
    def plan(self, iova: int, length: int, prot: int) -> list[tuple[int, int, int, int, bool]]:
        """The access cut at area borders: (iova, length, ACCESS_*, source id or 0, unproven). DmaError EFAULT (hole, or
        the file was cut), EPERM (permission, or the gate's MASTER bit is clear), EBUSY (its RUNNING bit is)."""
    def read(self, iova: int, length: int) -> bytes | None:
        """None: a piece of it is reached by messages or unproven (plan() tells). DmaError as plan(), and EIO where the
        file refuses."""
    def read_into(self, iova: int, buffer: Buffer) -> bool: ...
    def write(self, iova: int, data: Buffer) -> bool: ...
    def copy(self, source: int, destination: int, length: int) -> bool: ...
    def read_unproven(self, iova: int, length: int) -> bytes:
        """As read(), but the mapping of an unproven file is used: for whoever compares. DmaError(EFAULT): messages."""
    def write_unproven(self, iova: int, data: Buffer) -> None: ...
    def atomic(self, operation: int, iova: int, size: int, operand: int = 0, expected: int = 0) -> int:
        """One access of 1, 2, 4 or 8 bytes (LOAD, STORE, SWAP, ADD, OR, AND, COMPARE) to mapped memory; what was there
        before. DmaError also EINVAL (size, alignment), EFAULT (not mapped here)."""
    def preadv(self, fd: int, pieces: Iterable[tuple[int, int]], offset: int) -> int:
        """Fills (iova, length) pieces of mapped memory from a file, without a copy in between; how many bytes (fewer
        at the end of the file). DmaError as read(), or the file's own errno."""
    def pwritev(self, fd: int, pieces: Iterable[tuple[int, int]], offset: int) -> int: ...

class Pin(Buffer):
    """A view of [iova, iova + length) with a mapping of its own. Revoked, or after a fault because the file was cut, it
    shows zeros; its memory stays legal to touch as long as the object lives."""

    valid: Final[bool]  # False once it was revoked or has faulted
    faulted: Final[bool]

    def __init__(self, ioas: Ioas, iova: int, length: int, prot: int) -> None:
        """DmaError: EFAULT (not all of it is mapped), EPERM, ENOSPC (max_pins), EINVAL (empty, or areas that share a
        page)."""
    def revoke(self) -> None: ...

class Source(TypedDict):
    """A client's file that memory lies in."""

    id: int
    device: int
    inode: int
    prot: int
    access: int
    bytes: int
    users: int
    dead: bool

def sources(most: int = ..., /) -> list[Source]:
    """Every page source of the process, or `most` of them."""

def remap(buffer: Buffer, fd: int) -> None:
    """The memory of a whole mmap object becomes a shared, writable mapping of the file `fd` from its start: the object,
    its views and the tables over it show the file from then on. What was there is gone; the caller keeps `fd`, and lets
    nobody touch the memory meanwhile. ValueError: not whole pages, a file that is shorter, or a view of client memory;
    BufferError: it is read-only; OSError: no file that can be mapped so. Then nothing has changed."""

# -- eventfds -----------------------------------------------------------------------------------------------------

def want_loop() -> None:
    """What this thread serves has given its loop something to do at once: a pump that polls goes back to it."""

def signal(fd: int) -> bool:
    """Adds 1 to an eventfd without ever blocking. False: the counter was full (the event is not lost: it is set)."""

def is_eventfd(fd: int) -> bool: ...

# -- copies and checksums -----------------------------------------------------------------------------------------

def crc32(data: Buffer, value: int = 0, /) -> int:
    """zlib's CRC-32, several times as fast where the processor helps."""

def copy_crc32(into: Buffer, data: Buffer, value: int = 0, /) -> int:
    """Copies data to a place of the same size that is elsewhere, and returns the CRC-32 of what is there now."""

def copy_far(into: Buffer, data: Buffer, /) -> None:
    """Copies data to a place of the same size that is elsewhere and that nobody looks at soon: around the caches."""

def snapshot(data: Buffer, value: int = 0, /) -> tuple[bytes, int]:
    """A copy and its CRC-32: they fit, whoever writes to the data meanwhile."""

# -- one connection -----------------------------------------------------------------------------------------------

Output: TypeAlias = tuple[bytes, tuple[int, ...]]  # one sendmsg: bytes, and the descriptors that go with its first byte
Access: TypeAlias = Callable[[int, int, bytes | None], object]
"""A region without a table: access(offset, count, None) -> bytes, access(offset, count, data) -> None, or any other
object: "later". Bounds are already checked. May raise CommandError(errno)."""

class Stream:
    """The one receiver of vfio-user messages, without I/O: frames, keeps the order, serves the region commands from
    `regions`, and hands every other message to `command` (or `reply`). Both ends of a connection use it.

    Descriptors belong to the message that holds the last byte fed with them.
    """

    negotiated: bool  # False: only VERSION (1) is legal, any other command breaks the stream
    max_transfer: int  # max_data_xfer_size: larger counts are EINVAL, larger messages break the stream
    regions: list[tuple[int, Table | Access | None]]  # (size, how it is served); set before the first message
    on_hook_error: Callable[[int, int, BaseException], None]  # (region index, offset, exception): log it; EIO is sent
    masked_errors: bool  # region accesses that fail are answered: reads with all ones, writes as if they were done
    dma_transfers: int  # transfers by DMA_READ and DMA_WRITE under way: DMA_UNMAP may concern them
    send_limit: int  # bytes queued above which no further command is taken
    held: Final[bool]  # a Later is outstanding: commands wait, replies to our own messages are taken in
    broken: Final[str | None]  # why the stream means nothing any more
    queued: Final[int]  # bytes in the send queue
    wants_read: Final[bool]  # False while held with a full buffer, or while the send queue is full
    received: Final[int]  # messages taken in
    hook_region: Final[int]  # region index of the access being served (valid inside hooks)

    def __init__(
        self,
        command: Callable[[int, int, int, bytes, list[int]], Any],
        reply: Callable[[int, int, int, bytes, list[int]], None],
        *,
        max_transfer: int = 1048576,
        on_later: Callable[[object], None] | None = None,
    ) -> None:
        """`command(number, message id, flags, payload, fds)` returns the reply's payload as bytes, as a list of buffers
        (one after another; large ones are borrowed until they were sent, so they must not change; with a ledger they
        are copied), as `(bytes, fds)`, or any other object: "later". It owns `fds` (it must close or keep every one;
        descriptors it returns stay its own and are duplicated at once into the send queue). It may raise CommandError
        (error reply) or PeerError (the stream is broken). `reply(number, message id, errno, payload, fds)` gets
        replies to our own messages; errno 0 is success. A large payload of MIG_DATA_WRITE, or of a reply to
        MIG_DATA_READ, is a read-only memoryview of where it was received, unless there is a ledger.
        `on_later(object)` is told of every held command, register hooks' included."""
    def feed(self, data: bytes | bytearray | memoryview, fds: Sequence[int] = ()) -> list[Output]:
        """Takes bytes and descriptors (which it owns from now on) and returns what to send, in order."""
    def take(self) -> list[Output]:
        """What is queued to be sent; for callers without a pump. The descriptors are the caller's to close."""
    def send(self, message: Buffer | list[Any], fds: Sequence[int] = ()) -> None:
        """Queues a whole message of our own (fds are duplicated), or its pieces, of which the first has the header;
        large ones without fds are borrowed likewise."""
    def complete(self, result: object) -> None:
        """Answers the held command: bytes, a list of buffers or (bytes, fds) for a command; int or None for a register;
        an exception for an error (CommandError's errno, else EIO). Then the commands that waited are served."""
    def serve_dma(self, ioas: Ioas, page: int) -> None:
        """From now on a DMA_MAP that adds an area made of `page`s (bytes), and a DMA_UNMAP that nobody has to be waited
        for, are done here. Whatever would be refused, ALL, and while there are views, accesses or `dma_transfers`
        under way, still comes to `command`, which has the rules and their messages."""
    def carry(self) -> tuple[bytes, list[tuple[int, int]], bytes, list[tuple[int, int]]]:
        """What another process must know to go on: bytes that are not served yet, with their descriptors as (offset in
        the bytes, fd), and bytes that are not sent yet, with theirs. Replies that were taken in while a command was
        held are not among them. Nothing changes: the descriptors stay the stream's. LocalError: a command is held or
        being served, or the stream is broken or closed."""
    def adopt(
        self, rx: Buffer, rx_fds: Sequence[tuple[int, int]], tx: Buffer, tx_fds: Sequence[tuple[int, int]]
    ) -> None:
        """Puts what carry() gave into a stream that nothing has passed through; nothing is served before serve(). The
        descriptors are duplicated. LocalError: something has passed, or it is closed or broken; ValueError: descriptors
        out of order or beyond the bytes, or more than 253 to be sent at once; OSError: no duplicate. Then nothing is
        in it."""
    def serve(self) -> None:
        """Serves what was adopted, as feed(b"") would; replies stay queued. LocalError: closed, or in a callback."""
    def use(self, ledger: Ledger) -> LedgerReport:
        """From now on the stream's bytes are in `ledger`. A fresh one takes those that the stream holds already. Of a
        dead process: an untouched stream goes on where that was, with EIO queued for the command that was in hand
        (`masked_errors` applies: set it before); nothing is served yet: feed(b"") does so.

        LocalError: the stream is closed, holds or serves a command or has a ledger; it is not untouched; the ledger is
        another stream's or makes no sense. Then nothing has changed. With a ledger the stream serves nothing while a
        reply with descriptors is unsent, and cannot send messages of its own with descriptors (LocalError)."""
    def close(self) -> None:
        """Drops everything and closes every descriptor in it. Idempotent."""

class LedgerReport(tuple[Any, ...]):
    """What a successor found."""

    fresh: Final[bool]  # nobody had used the ledger
    failed: Final[tuple[int, int, bool] | None]  # the command in hand: its number, message id, whether EIO is queued
    awaiting: Final[int]  # messages (or parts of them) that get EIO in their turn: their descriptors are lost
    unread: Final[int]  # bytes received and not served
    unsent: Final[int]  # bytes queued to be sent, that EIO included
    last_id: Final[int | None]  # the id of the last message of our own: go on behind it

class Ledger:
    """A memfd in which the bytes of one stream survive SIGKILL (native/core/ledger.c says how). Somebody else must hold
    its descriptor, and the socket's. Its memory is used as far as bytes wait, and given back later."""

    fd: Final[int]  # the memfd; it is the ledger's own

    def __init__(self, max_transfer: int, fd: int = -1) -> None:
        """A fresh one for messages of up to `max_transfer` bytes of data (at least 1 MiB), or the one behind `fd`
        (it is duplicated). LocalError: `fd` is no ledger of this version and these sizes; OSError: no memory, no
        descriptor. It is closed when neither its stream nor anybody else refers to it."""

class Pump:
    """recvmsg -> Stream.feed -> sendmsg on a non-blocking socket, in C. The caller owns the socket."""

    READ: Final[int]  # = 1: wait until the socket is readable
    WRITE: Final[int]  # = 2: wait until it is writable
    EOF: Final[int]  # = 4: the peer has closed
    BROKEN: Final[int]  # = 8: see stream.broken, or a socket error (then `error` is its errno)
    LARGE: Final[int]  # = 16: the buffers are larger than they begin: ask for rest() in a while
    error: Final[int]

    def __init__(self, stream: Stream, fd: int) -> None: ...
    def run(self, spin_us: int = 0) -> int:
        """One recvmsg (many messages; some more where descriptors ended it), the replies in one sendmsg.

        With `spin_us` it keeps polling, without the GIL, until that many microseconds have passed without a message.
        Returns READ | WRITE | EOF | BROKEN, and LARGE once."""
    quiet: bool
    """Whether step() tells nothing of a turn after which only READ is waited for."""
    def step(self, run: Callable[[], None], told: Callable[[int], None]) -> None:
        """A loop's callback: run(), and `told` what it returned unless that is usual (`quiet`). The other callable is
        called instead where not `quiet`, and where the stream cannot be served."""
    def poll(self, limit_us: int, loop_fd: int, stays: bool = False) -> None:
        """From now on run() waits, without the GIL, for a next message as long as that pays, and ends `limit_us`
        microseconds (0: at once) after it was called, and as soon as `loop_fd`, the epoll descriptor of the loop that
        watches the socket, has anything else: native/core/spin.h. With `stays` only stay() ever waits."""
    def stay(self) -> int:
        """Polls and serves without the GIL, which only hooks and commands take, as long as poll() allows, whether that
        pays or not; returns as run()."""
    def doze(self, file: str, uv_loop: object) -> None:
        """From now on step() may sleep in its loop's place, as native/core/doze.h says, and wait beyond poll()'s limit
        while the loop has nothing else. `file` has the loop's libuv in it, `uv_loop` is a capsule of its uv_loop_t.
        LocalError: it is not a libuv that is known here."""
    polling: Final[dict[str, Any]]
    """The limit and how long the next wait is (limit_us, window_us); how many waits there were, how many a message has
    ended (spins, hits), how many another descriptor (yields), and what all took, in seconds: CPU time, if nobody else
    wanted the processor. How often it has slept in the loop's place, and a message has ended that (sleeps,
    woken)."""
    def flush(self) -> int:
        """Sends what is queued; returns as run()."""
    def rest(self) -> bool:
        """Gives empty buffers that are large back, if no message has come since LARGE was said or this was last called.

        False: some are large still, so ask again; True: LARGE will be said when one is."""

STRUCTS: Final[dict[str, tuple[int, dict[str, tuple[int, int]]]]]
"""Every C struct of the wire: name -> (size, field -> (offset, size)). A test ties it to the construct layouts."""
