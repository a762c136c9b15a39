"""What decides how the loop goes on: the step count, a signal to stop, adaptive beta, refreshes of the reference,
numbers that went wrong.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from gruppo.errors import TrainingError

MAX_SKIPPED_IN_A_ROW = 3
"""Steps whose loss or gradient isn't finite, one after another, before the run is given up."""

RAISE, LOWER = 1.5, 0.9
"""Factors of an adaptive beta: KL above the target, KL below half of it."""

BETA_FACTOR_RANGE = (0.01, 100.0)
"""How far an adaptive beta may move from the one that was set."""


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """What the controls act on."""

    target_kl: float | None = None
    """Nats per token; None: beta stays as it is."""
    refresh_every: int | None = None
    """Steps between refreshes of the reference policy; None: never."""


class Controls:
    """The step counter of a stage, its brakes, and what follows from a step's numbers. Stateful."""

    def __init__(self, steps: int, settings: ControlSettings | None = None) -> None:
        self.steps = steps
        self.step = 0
        self.stop_requested = False
        self.beta_factor = 1.0
        """What the scheduled beta is multiplied by."""
        self._settings = settings or ControlSettings()
        self._skipped = 0

    @property
    def done(self) -> bool:
        """Whether the loop ends here: all steps made, or asked to stop."""
        return self.step >= self.steps or self.stop_requested

    @property
    def finished(self) -> bool:
        """Whether all steps have been made."""
        return self.step >= self.steps

    @property
    def refresh_due(self) -> bool:
        """Whether the reference policy is to be refreshed after the step just made; not after the last one."""
        every = self._settings.refresh_every
        return every is not None and self.step % every == 0 and 0 < self.step < self.steps

    def advance(self, *, poisoned: bool) -> None:
        """Count a step; `poisoned`: its loss or gradient was not finite, and no optimizer step was made."""
        self.step += 1
        self._skipped = self._skipped + 1 if poisoned else 0

    def give_up_if_poisoned(self) -> None:
        """End the run where it can't go on.

        Raises:
            TrainingError: several steps in a row were poisoned.
        """
        if self._skipped >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"step {self.step}: loss or gradient was not finite {self._skipped} times in a row, so the weights "
                "were left as they are; lower learning_rate, or set precision: float32; the last checkpoint is intact"
            )

    def adapt_beta(self, kl: float | None) -> bool:
        """Move an adaptive beta by a step's KL: times 1.5 above the target, times 0.9 below half of it, bounded.

        Returns:
            Whether it moved.
        """
        target, before = self._settings.target_kl, self.beta_factor
        if target is None or kl is None or kl != kl or target / 2 <= kl <= target:
            return False
        low, high = BETA_FACTOR_RANGE
        self.beta_factor = min(high, max(low, before * (RAISE if kl > target else LOWER)))
        return self.beta_factor != before

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
        """The step, the factor of beta, and how many steps in a row were skipped."""
        return {"step": self.step, "beta_factor": self.beta_factor, "skipped": self._skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a step."""
        self.step, self.beta_factor, self._skipped = state["step"], state["beta_factor"], state["skipped"]
