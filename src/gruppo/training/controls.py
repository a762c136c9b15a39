"""What decides whether the loop goes on: the step count, a signal to stop, numbers that went wrong."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from gruppo.errors import TrainingError

MAX_SKIPPED_IN_A_ROW = 5
"""Updates with a gradient that isn't finite, one after another, before the run is given up."""


class Controls:
    """The step counter of a stage, and its brakes."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.step = 0
        self.stop_requested = False
        self._skipped = 0

    @property
    def done(self) -> bool:
        """Whether the loop ends here: all steps made, or asked to stop."""
        return self.step >= self.steps or self.stop_requested

    @property
    def finished(self) -> bool:
        """Whether all steps have been made."""
        return self.step >= self.steps

    def advance(self, grad_norm: float | None) -> None:
        """Count a step.

        Raises:
            TrainingError: the gradient was not finite for several steps in a row.
        """
        self.step += 1
        poisoned = grad_norm is not None and not grad_norm < float("inf")
        self._skipped = self._skipped + 1 if poisoned else 0
        if self._skipped >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"step {self.step}: the gradient was not finite {self._skipped} times in a row, so the weights were "
                "left as they are; lower learning_rate, or set precision: float32; the last checkpoint is intact"
            )

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the loop after the step in hand (a second SIGINT at once), inside the block."""

        def request(number: int, frame: FrameType | None) -> None:
            if self.stop_requested and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop_requested = True

        previous: dict[int, Any] = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, request)
        except ValueError:  # not the main thread, as in a notebook's worker: signals stay as they are
            pass
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def state_dict(self) -> dict[str, Any]:
        """The step."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a step."""
        self.step = state["step"]
