"""The CPU time of one test, held from inside: an alarm that raises Overtime in the program's (or the tests') code.

The sandbox ends a process at its limit from outside, with all the tests that were still to come. The alarm is for the
ordinary case, one slow test among others: that one fails and the next one runs. A program that catches it or switches
it off runs on until the limit from outside; it wins time, and no verdict.
"""

import signal
from types import FrameType

from gruppo.rewards.sandbox.peer import Overtime

_AGAIN = 0.25


class Alarm:
    """Goes off after so many CPU seconds from `begin`, and again from then on, only in code of one name."""

    def __init__(self, seconds: float, filename: str) -> None:
        self._seconds = seconds
        self._filename = filename
        self._due = False
        try:
            signal.signal(signal.SIGPROF, self._ring)
        except (OSError, ValueError):  # no such call in this jail, or not the main thread
            self._seconds = 0.0

    def begin(self) -> None:
        """A test begins."""
        self._due = False
        if self._seconds > 0:
            signal.setitimer(signal.ITIMER_PROF, self._seconds, _AGAIN)

    def stop(self) -> None:
        """No test runs."""
        self._due = False
        if self._seconds > 0:
            signal.setitimer(signal.ITIMER_PROF, 0.0)

    def check(self) -> None:
        """Raise Overtime where it went off while a message was on its way."""
        if self._due:
            self._due = False
            raise Overtime

    def _ring(self, number: int, frame: FrameType | None) -> None:
        """Raise where the code that was interrupted is not ours: a message is never left half read."""
        while frame is not None:
            name = frame.f_code.co_filename
            if name == self._filename:
                raise Overtime
            if frame.f_globals.get("__package__") == __package__:
                self._due = True
                return
            frame = frame.f_back
