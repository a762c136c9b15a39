"""The background writer: one write at a time, in order; its errors come back; nothing is left unwritten."""

import threading
from collections.abc import Callable

import pytest

from gruppo.errors import RunFolderError
from gruppo.monitor.environment import _available_by_group, available_memory
from gruppo.monitor.writer import THREAD, BackgroundWriter

LIMIT = 30.0


def full() -> None:
    raise RunFolderError("output_dir: no space left")


def finished(writer: BackgroundWriter) -> None:
    """Wait for the thread without asking the writer."""
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join(LIMIT)


def test_a_write_goes_on_beside_the_caller_and_the_next_waits_for_it():
    writer, go, written = BackgroundWriter(), threading.Event(), list[str]()
    started: list[threading.Event] = [threading.Event(), threading.Event()]

    def write(number: int) -> Callable[[], None]:
        def work() -> None:
            started[number].set()
            assert go.wait(LIMIT)
            written.append(f"{number} by {threading.current_thread().name}")

        return work

    writer.submit("the first", write(0))
    assert started[0].wait(LIMIT)
    writer.check()
    assert written == []  # the caller is on, the write is not over
    second = threading.Thread(target=lambda: writer.submit("the second", write(1)))
    second.start()
    assert not started[1].wait(0.05)
    assert second.is_alive()
    go.set()
    second.join(LIMIT)
    writer.flush()
    assert written == [f"0 by {THREAD}", f"1 by {THREAD}"]
    assert THREAD not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("ask", ["check", "flush", "submit"])
def test_an_error_is_raised_once_by_whoever_asks_next(ask: str):
    writer = BackgroundWriter()
    writer.submit("the rollouts of step 3", full)
    finished(writer)
    with pytest.raises(RunFolderError, match=r"^output_dir: no space left$"):
        writer.submit("more", lambda: None) if ask == "submit" else getattr(writer, ask)()
    writer.check()
    writer.flush()


def test_the_end_of_a_block_flushes_and_raises():
    written = list[int]()
    with BackgroundWriter() as writer:
        writer.submit("one", lambda: written.append(1))
    assert written == [1]
    with pytest.raises(RunFolderError, match="no space left"), BackgroundWriter() as writer:
        writer.submit("one", full)


def test_an_error_of_the_block_is_not_hidden():
    def block() -> None:
        with BackgroundWriter() as writer:
            writer.submit("the checkpoint of step 4", full)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        block()
    assert caught.value.__notes__ == [
        "besides, the checkpoint of step 4 could not be written: output_dir: no space left"
    ]


def test_a_disk_that_hangs_is_named_in_time():
    go = threading.Event()
    writer = BackgroundWriter(wait_seconds=0.05)
    writer.submit("the checkpoint of step 4", lambda: go.wait(LIMIT))
    with pytest.raises(RunFolderError, match=r"the checkpoint of step 4 has been on its way to the disk for 0\.05 s"):
        writer.flush()
    go.set()
    finished(writer)
    writer.flush()


def test_the_memory_that_a_container_leaves(tmp_path):
    files = {"max": "1000\n", "current": "700\n", "stat": "anon 400\nfile 250\nfile_mapped 90\n"}
    for name, text in files.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert _available_by_group(tmp_path) == 1000 - 700 + 250
    (tmp_path / "memory.max").write_text("max\n")
    assert _available_by_group(tmp_path) is None
    assert _available_by_group(tmp_path / "none") is None
    available = available_memory()
    assert available is None or available > 2**20
