"""Writing beside the training: checkpoints and rollouts go to the disk while the next step runs.

    trainer   step n | copy, submit | step n + 1 ... | submit            | ...  end of the stage: flush
                            |                            waits for it          waits for it
    thread                  +-- write, sync, rename -----+-- write ...         |

Who waits for whom:
1. `submit` waits for the write under way, if there is one: one is in flight at most, and one copy of the state in
   memory. Writes come in the order of their submission: a step's rollouts are there before its checkpoint is.
2. The thread waits for nobody. What it writes was copied before, so the training may go on changing the original.
3. An error of the thread is raised, once, by the next `check` (every step asks), `submit` or `flush`.
4. As a context, the writer flushes where the block ends: after the last step, after a signal, after an error.

Every wait ends after WAIT_SECONDS with an error. The thread is no daemon: the interpreter does not exit under it. A
kill leaves what a kill of any write leaves: a file aside that nobody takes for a whole one.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from gruppo.errors import RunFolderError

WAIT_SECONDS = 3600.0
"""A write that takes longer is stuck: at 100 MB/s it would be 360 GB."""
THREAD = "gruppo-writer"


class BackgroundWriter:
    """One write at a time in a thread of its own."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._thread: threading.Thread | None = None
        self._what = ""
        self._error: BaseException | None = None

    def submit(self, what: str, write: Callable[[], object]) -> None:
        """Begin a write, after the one before it.

        Args:
            what: is written, for a message: `the checkpoint of step 50`.
            write: touches nothing that changes meanwhile.

        Raises:
            Exception: what the write before it raised.
            RunFolderError: it has not ended for an hour.
        """
        self.flush()
        self._what = what
        self._thread = threading.Thread(target=self._run, args=(write,), name=THREAD)
        self._thread.start()

    def _run(self, write: Callable[[], object]) -> None:
        try:
            write()
        except BaseException as error:  # whatever it is, it belongs to the trainer's thread
            self._error = error

    def check(self) -> None:
        """Raise what a write that is over has raised; never waits."""
        if self._thread is not None and not self._thread.is_alive():
            self.flush()

    def flush(self) -> None:
        """Wait for the write under way; raises as `submit`."""
        if self._thread is None:
            return
        self._thread.join(self._wait_seconds)
        if self._thread.is_alive():
            raise RunFolderError(
                f"output_dir: {self._what} has been on its way to the disk for {self._wait_seconds:g} s; the disk "
                "hangs or is far too slow, choose another with --out"
            )
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Flush; an error of the writing never hides the one that ended the block."""
        try:
            self.flush()
        except Exception as error:
            if raised is None:
                raise
            raised.add_note(f"besides, {self._what} could not be written: {error}")
