"""Views of client memory: S4.12, S1.9, S1.12, and what a model is told when it loses one."""

import array
import errno
import logging
import os
from collections.abc import Callable

import pytest

from tests.iommu.conftest import BY_FILE, MAPPED, PAGE, REMOTE, error_of
from vfuserver._core import PROT_READ, PROT_WRITE
from vfuserver.errors import DmaError
from vfuserver.iommu import View
from vfuserver.testing.local_client import LocalMemory


def test_a_view_is_the_memory_itself(memory: LocalMemory) -> None:
    with memory.pin(MAPPED + 100, 50, True) as view:
        view.memory[0:5] = b"hello"
        assert memory.read_now(MAPPED + 100, 5) == b"hello"
        memory.write_now(MAPPED + 149, b"!")
        assert view.memory[49] == ord("!")
        assert (view.valid, view.writable, view.wanted, len(view.memory)) == (True, True, False, 50)
    assert not view.valid
    assert memory.views_in(0, 2**64 - 1) == []


def test_a_read_only_view_cannot_be_written(memory: LocalMemory) -> None:
    with memory.pin(MAPPED, 8, False) as view, pytest.raises(TypeError, match="read-only"):
        view.memory[0] = 1


def test_permissions_and_kinds_are_asked_when_it_is_made(memory: LocalMemory) -> None:
    """S1.5."""
    memory.add(0x80000, PAGE, PROT_READ)
    assert error_of(lambda: memory.pin(0x80000, 8, True)) == errno.EPERM
    for iova in (REMOTE, BY_FILE, 0x70000):
        assert error_of(lambda iova=iova: memory.pin(iova, 8, False)) == errno.EFAULT
    assert error_of(lambda: memory.pin(MAPPED, 0, False)) == errno.EINVAL


def test_a_released_view_says_so(memory: LocalMemory) -> None:
    view = memory.pin(MAPPED, 8, True)
    view.release()
    view.release()
    with pytest.raises(DmaError, match="it was released"):
        view.memory[0]


def test_whoever_keeps_bytes_of_a_released_view_sees_zeros(memory: LocalMemory) -> None:
    memory.write_now(MAPPED, b"secret")
    with memory.pin(MAPPED, 8, True) as view:
        kept = view.memory[0:6]
        exported = memoryview(view.memory).cast("B")
        words = array.array("B", view.memory)
    assert bytes(kept) == bytes(exported[0:6]) == bytes(6)
    assert bytes(words[0:6]) == b"secret"
    kept[0:1] = b"x"
    assert memory.read_now(MAPPED, 6) == b"secret"


def test_a_view_revoked_by_force_raises_at_its_next_call(memory: LocalMemory, caplog: pytest.LogCaptureFixture) -> None:
    memory.write_now(MAPPED, b"data")
    view = memory.pin(MAPPED, 8, True)
    seen = view.memory
    memory.remove(MAPPED, 4 * PAGE)
    assert memory.revoke(MAPPED, MAPPED + PAGE - 1) == 1
    assert not view.valid
    assert bytes(seen[0:4]) == bytes(4)
    assert error_of(lambda: view.memory) == errno.EFAULT
    with pytest.raises(DmaError, match="the client took the range back"):
        view.release()
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert "testdev: view of 0x10000+0x8" in record.getMessage()
    assert "EDEADLK" in record.getMessage()


def lose_a_view(memory: LocalMemory, ending: Exception | None) -> None:
    with memory.pin(MAPPED, 8, True):
        memory.revoke(MAPPED, MAPPED)
        if ending is not None:
            raise ending


def test_the_end_of_the_block_raises_unless_another_error_does(memory: LocalMemory) -> None:
    assert error_of(lambda: lose_a_view(memory, None)) == errno.EFAULT
    with pytest.raises(ValueError, match="the model's own"):
        lose_a_view(memory, ValueError("the model's own"))


def test_a_view_whose_file_is_cut_shows_zeros_and_raises(memory: LocalMemory) -> None:
    """S1.12."""
    fd = os.memfd_create("client", os.MFD_CLOEXEC)
    os.ftruncate(fd, PAGE)
    memory.ioas.map(0x80000, PAGE, PROT_READ | PROT_WRITE, fd)
    view = memory.pin(0x80000, PAGE, True)
    view.memory[0] = 7
    os.ftruncate(fd, 0)
    os.close(fd)
    assert view.memory[0] == 0
    assert not view.valid
    assert view.held
    with pytest.raises(DmaError, match="the client's file was cut"):
        view.release()


# -- giving back


def holder(memory: LocalMemory, iova: int, on_revoke: Callable[[View], None] | None = None) -> View:
    return memory.pin(iova, PAGE, True, on_revoke)


def test_a_model_is_asked_once_and_the_client_learns_when_all_is_released(memory: LocalMemory) -> None:
    asked: list[View] = []
    first, second = holder(memory, MAPPED, asked.append), holder(memory, MAPPED + PAGE, asked.append)
    other = holder(memory, MAPPED + 2 * PAGE, asked.append)
    done = memory.ask_back(MAPPED + 10, MAPPED + PAGE)
    again = memory.ask_back(MAPPED, MAPPED)
    assert asked == [first, second] == memory.views_in(MAPPED, MAPPED + PAGE)
    assert (first.wanted, other.wanted, done.done()) == (True, False, False)
    first.release()
    assert (done.done(), again.done()) == (False, True)
    second.release()
    assert done.done()
    other.release()


def test_nothing_to_give_back_is_done_at_once(memory: LocalMemory) -> None:
    view = holder(memory, MAPPED)
    assert memory.ask_back(MAPPED + PAGE, 2**64 - 1).done()
    assert memory.revoke(MAPPED + PAGE, 2**64 - 1) == 0
    view.release()


def test_a_model_may_release_in_its_callback(memory: LocalMemory) -> None:
    view = holder(memory, MAPPED, View.release)
    assert memory.ask_back(0, 2**64 - 1).done()
    assert not view.valid


def test_force_ends_the_waiting(memory: LocalMemory) -> None:
    view = holder(memory, MAPPED)
    done = memory.ask_back(MAPPED, MAPPED)
    assert memory.revoke(MAPPED, MAPPED) == 1
    assert done.done()
    assert memory.views_in(MAPPED, MAPPED) == []
    assert error_of(view.release) == errno.EFAULT


def test_a_callback_that_fails_is_logged_and_disturbs_nobody(
    memory: LocalMemory, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: View) -> None:
        raise ValueError("the model's own")

    broken, sound = holder(memory, MAPPED, fails), holder(memory, MAPPED, View.release)
    assert not memory.ask_back(MAPPED, MAPPED).done()
    assert not sound.valid
    assert "on_revoke failed" in caplog.text
    broken.release()


def test_detach_tells_the_models_and_takes_what_is_left(memory: LocalMemory) -> None:
    released, kept = holder(memory, MAPPED, View.release), holder(memory, MAPPED)
    memory.detach()
    assert (released.wanted, kept.wanted, kept.valid) == (True, True, False)
    assert memory.ioas.pins == 0
    assert error_of(kept.release) == errno.EFAULT
    released.release()
