"""What belongs to one connection: its areas, eventfds, DMA messages and what was agreed on. Handlers work on it.

It must not know commands, messages' layouts, or event loops.
"""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from vfuserver._core import Ioas, Stream
from vfuserver.errors import CommandError
from vfuserver.iommu import CONTEXT, Access, Kind
from vfuserver.plain import Descriptor
from vfuserver.session.carried_stream import adopted_stream, carry_stream
from vfuserver.session.dma_layout import LayoutChoice
from vfuserver.session.file_trust import FileTrust
from vfuserver.session.io_events import IoEventPort
from vfuserver.session.irqs import InterruptPort
from vfuserver.session.log import ConnectionLog
from vfuserver.session.migration import Machine
from vfuserver.session.migration_region import MigrationRegion
from vfuserver.session.negotiation import Capabilities
from vfuserver.session.options import SessionOptions
from vfuserver.session.outgoing import Outgoing
from vfuserver.session.ports import OpenLane, Schedule
from vfuserver.session.quirks import PRE_COPY, PRIVATE_MEMORY
from vfuserver.session.recall import Recall
from vfuserver.session.twin import Twin
from vfuserver.vfio import Backend, Interrupts, Later, Memory, Region

SCM_MAX_FD: Final = 253
"""The kernel's limit of descriptors with one message (unix(7))."""


class Connection:
    """One client's view of one device, from its first byte to its last. Also the device's `vfio.Client` port."""

    def __init__(
        self,
        backend: Backend,
        options: SessionOptions,
        stream: Stream,
        interrupts: InterruptPort,
        io_events: IoEventPort,
        outgoing: Outgoing,
        layout: LayoutChoice,
        log: ConnectionLog,
        schedule: Schedule,
        open_lane: OpenLane | None = None,
        peer_pid: int | None = None,
        *,
        maps_in_core: bool = True,
    ) -> None:
        """`schedule` is the clock of bounded waits, `open_lane` makes a second socket possible, `peer_pid` is the
        client's process, if it is known. With `maps_in_core` plain DMA_MAP and DMA_UNMAP are not told to anybody."""
        self.backend = backend
        self.peer_pid = peer_pid
        self.options = options
        self.stream = stream
        self.log = log
        self.theirs = Capabilities()
        """What the client said that it can receive; the specification's defaults until VERSION."""
        self.ioas = Ioas(
            backend.gate,
            max_areas=options.max_dma_maps,
            max_bytes=options.max_dma_bytes,
            max_pins=options.max_dma_views,
        )
        self.irqs = interrupts
        self.io_events = io_events
        self.outgoing = outgoing
        self.twin: Twin | None = None
        """The stream of our own commands, if VERSION agreed on one."""
        self.machine = _machine(backend, options, log)
        """Moves a device that migrates; None: it does not, or must not."""
        self._region_v1 = _region_v1(options, self.machine)
        self._open_lane = open_lane
        self._maps_in_core = maps_in_core
        self._layout = layout
        self.files = FileTrust(self.ioas, options.quirks[PRIVATE_MEMORY], peer_pid, log)
        self._access = Access(self.ioas, outgoing, log.label, self.files)
        self._ids = _enter(self.ioas, self._access, log.label)
        patience = min(options.revoke_after, options.deadline / 2)
        self._recall = Recall(self.ioas, self._access.ask_back, schedule, patience, log)
        self.memory: Memory = self._access
        self.interrupts: Interrupts = interrupts

    @property
    def regions(self) -> Sequence[Region]:
        """By VFIO region index: the device's and, behind them, that of migration's version 1."""
        own = () if self._region_v1 is None else (self._region_v1.region(),)
        return (*self.backend.regions, *own)

    @property
    def migrates(self) -> bool:
        """Whether the features and commands of migration's version 2 are there."""
        return self.machine is not None and self.options.migration_v2

    @property
    def migration(self) -> Machine:
        """The machine behind them. CommandError(ENOTTY): they are not there."""
        if self.machine is None or not self.options.migration_v2:
            raise CommandError(errno.ENOTTY, f"{self.backend.name} does not migrate, or not by these commands")
        return self.machine

    def check_transfer(self, size: int) -> None:
        """CommandError(EINVAL) for more bytes of data than a message may have (max_data_xfer_size)."""
        if size > self.stream.max_transfer:
            text = f"{size} bytes, must be at most {self.stream.max_transfer} (max_data_xfer_size)"
            raise CommandError(errno.EINVAL, text)

    @property
    def most_fds(self) -> int:
        """Descriptors that may go with one message to the client."""
        return min(self.theirs.max_msg_fds, SCM_MAX_FD)

    def offer(self, theirs: Capabilities) -> Capabilities:
        """What we can, with a client that can do `theirs`: a twin socket is offered once it is open."""
        ours = self.options.capabilities
        if theirs.twin_socket and theirs.max_msg_fds and ours.twin_socket and self._open_lane is not None:
            try:
                self.twin = Twin(self._open_lane, self.outgoing, self.log)
            except OSError as error:
                self.log.error("no twin socket: %s; our commands go over the main one", error.strerror)
        return replace(ours, twin_socket=self.twin is not None)

    def agree(self, theirs: Capabilities, told: set[str], *, qemu: bool = False) -> None:
        """VERSION is settled: `theirs` is what the client can, `told` the keys that our reply repeats.

        `qemu`: it looks like QEMU, whose versions differ in where DMA messages have their data, and which hands out
        files that it has mapped privately (field-notes G).

        A client that was not told our max_data_xfer_size counts on the default, so at least that much is taken.
        """
        self.theirs = theirs
        if qemu:
            self.files.doubt()
        else:
            self._layout.settle_for_specification()
        ours = self.options.max_data_xfer_size
        self.outgoing.max_transfer = min(ours, theirs.max_data_xfer_size)
        default = Capabilities().max_data_xfer_size
        self.stream.max_transfer = ours if "max_data_xfer_size" in told else max(ours, default)
        if self.twin is not None:
            self.twin.stream.max_transfer = self.stream.max_transfer
        self._serve()

    def _serve(self) -> None:
        if self._maps_in_core:
            self.stream.serve_dma(self.ioas, self.options.dma_page)
        self.stream.negotiated = True

    def unmap(self, iova: int, size: int, reply: bytes) -> bytes | Later:
        """Removes the areas inside a range; `reply`, once nothing touches it any more. CommandError as Ioas.unmap."""
        self.ioas.unmap(iova, size)
        return self._forget(iova, size, reply)

    def unmap_all(self, reply: bytes) -> bytes | Later:
        """Removes every area, likewise."""
        if self.ioas.pins:  # whoever holds a view has its time to give it back
            for iova, size, *_ in self.ioas.areas():
                self.ioas.unmap(iova, size)
        else:
            self.ioas.clear()
        return self._forget(0, 1 << 64, reply)

    def _forget(self, iova: int, size: int, reply: bytes) -> bytes | Later:
        self.outgoing.forget(iova, size)
        return self._recall.answer("DMA_UNMAP", iova, iova + size - 1, reply)

    def doubt_log(self) -> None:
        """What the device has written was noted by a process that was killed: everything counts as written."""
        noted = self.ioas.carry_log()
        if noted is not None:
            spans, _, unreported = noted
            self.ioas.log_stop()
            self.ioas.adopt_log(spans, [(0, (1 << 64) - 1)], unreported)

    def stop_logging(self) -> bool:
        """What the device writes is not noted any more; False if it was not (S3.18)."""
        logging = self.ioas.logging
        if logging:
            self.ioas.log_stop()
        return logging

    def dump(self) -> dict[str, Any]:
        """What was agreed on, and what waits, as plain data (S4.26); the memory is in `iommu.CONTEXT`'s dump."""
        streams = [self.stream] if self.twin is None else [self.stream, self.twin.stream]
        return {
            "peer_pid": self.peer_pid,
            "client": asdict(self.theirs),
            "max_transfer": {"receive": self.stream.max_transfer, "send": self.outgoing.max_transfer},
            "twin_socket": self.twin is not None,
            "received": sum(stream.received for stream in streams),
            "queued": sum(stream.queued for stream in streams),
            "dma_messages": {"layout": self._layout.name, **self.outgoing.dump()},
            "interrupts": self.irqs.dump(),
        }

    # -- from process to process

    def carry(self, streams: bool) -> dict[str, Any]:
        """Everything of the connection, for another process that goes on with it: plain data, descriptors lent."""
        twin = None if self.twin is None else (carry_stream(self.twin.stream) if streams else [])
        return {
            "theirs": asdict(self.theirs),
            "negotiated": self.stream.negotiated,
            "max_transfer": self.stream.max_transfer,
            "memory": self._carry_memory(),
            "irqs": self.irqs.carry(),
            "rung_by_eventfd": [
                [index, number]
                for index, region in enumerate(self.backend.regions)
                for number, event in enumerate(region.io_events)
                if self.io_events.given(event)
            ],
            "outgoing": self.outgoing.carry(),
            "layout": self._layout.carry(),
            "machine": None if self.machine is None else self.machine.carry(),
            "region_v1": None if self._region_v1 is None else self._region_v1.carry(),
            "stream": carry_stream(self.stream) if streams else None,
            "twin": twin,
        }

    def adopt(self, carried: Mapping[str, Any]) -> None:
        """Becomes the connection that carry() told of, of the same device. CommandError, OSError: it cannot; then it
        is of no use, and close() gives back what it has."""
        self.theirs = Capabilities(**carried["theirs"])
        self._adopt_memory(carried["memory"])
        self.irqs.adopt(carried["irqs"])
        for index, number in carried["rung_by_eventfd"]:
            self.io_events.give(self.backend.regions[index].io_events[number])
        if carried["twin"] is not None and self._open_lane is not None:
            self.twin = Twin(self._open_lane, self.outgoing, self.log)
            self.twin.stream.max_transfer = carried["max_transfer"]
            if carried["twin"]:
                self.twin.stream.adopt(*adopted_stream(carried["twin"]))
        self._layout.adopt(carried["layout"])
        if carried["stream"] is None:  # it was killed: which of its messages were answered since, nobody knows
            self.outgoing.adopt({**carried["outgoing"], "pieces": [], "probe": None})
        else:
            self.outgoing.adopt(carried["outgoing"])
        if self.machine is not None and carried["machine"] is not None:
            self.machine.adopt(carried["machine"])
        if self._region_v1 is not None and carried["region_v1"] is not None:
            self._region_v1.adopt(carried["region_v1"])
        self.stream.max_transfer = carried["max_transfer"]
        if carried["negotiated"]:
            self._serve()
        if carried["stream"] is not None:
            self.stream.adopt(*adopted_stream(carried["stream"]))

    def _carry_memory(self) -> dict[str, Any]:
        areas, files = self.ioas.carry()
        lent = [[source, Descriptor(fd), *rest] for source, fd, *rest in files]
        return {"areas": areas, "files": lent, "new": self.ioas.new_files, "log": self.ioas.carry_log()}

    def _adopt_memory(self, carried: Mapping[str, Any]) -> None:
        self.ioas.new_files = carried["new"]
        self.ioas.adopt(carried["areas"], [(source, fd.fd, *rest) for source, fd, *rest in carried["files"]])
        if carried["log"] is not None:
            self.ioas.adopt_log(*carried["log"])

    def abandon_migration(self) -> None:
        """The client has gone: what it was saving or loading is discarded (S3.23)."""
        if self.machine is not None:
            self.machine.abandon()

    def cut_off(self) -> None:
        """The client is gone: it rings no more, and the device's DMA fails with ENODEV, what is under way included."""
        self.io_events.close()
        self._access.detach()
        self.outgoing.close()

    def close(self) -> None:
        """Gives back everything that came from the client."""
        self.cut_off()
        self.irqs.close()
        self.stop_logging()
        for kind, number in self._ids:
            CONTEXT.destroy(kind, number)
        self.stream.close()
        if self.twin is not None:
            self.twin.stream.close()


def _region_v1(options: SessionOptions, machine: Machine | None) -> MigrationRegion | None:
    if machine is None or not options.migration_v1:
        return None
    return MigrationRegion(machine, options.max_data_xfer_size)


def _machine(backend: Backend, options: SessionOptions, log: ConnectionLog) -> Machine | None:
    if backend.migration is None or not (options.migration_v1 or options.migration_v2):
        return None
    return Machine(
        backend,
        backend.migration,
        log,
        p2p=not options.hide_peer_to_peer,
        slow=options.slow_arc,
        precopy=options.migration_v1,
        apart=options.quirks[PRE_COPY] == "apart",
    )


def _enter(ioas: Ioas, access: Access, name: str) -> list[tuple[Kind, int]]:
    """Puts a connection's memory where `inspect` sees it; what to destroy in the end, in order."""
    space = CONTEXT.add_ioas(ioas, name)
    return [(Kind.ACCESS, CONTEXT.add_access(access, space)), (Kind.IOAS, space)]
