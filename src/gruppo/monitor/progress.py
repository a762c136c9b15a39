"""Who watches a run: a live display on a terminal, plain lines in a log, nobody. All three are
`ProgressObserver`s.

They write to stderr, so that what a command prints for programs (`--json`) stays clean.
"""

import atexit
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TextIO

from gruppo.monitor.text import duration, number, visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

Clock = Callable[[], float]
Values = Mapping[str, float | None]

_FORMATS: dict[str, str] = {
    "reward_mean": "reward {:.3f}",
    "pass_at_1": "pass@1 {:.3f}",
    "pass_at_1_greedy": "greedy {:.3f}",
    "kl_to_reference": "KL {:.4f}",
    "completion_length_mean": "length {:.0f}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "loss": "loss {:.4f}",
}


def describe(values: Values) -> str:
    """The figures as one line: `reward 0.310  pass@1 0.280  KL 0.0012  length 43  4,210 tokens/s`."""
    shown = [(name, value) for name, value in values.items() if value is not None]
    return "  ".join(
        _FORMATS[name].format(value) if name in _FORMATS else f"{visible(name)} {number(value)}"
        for name, value in shown
    )


@dataclass
class _Pace:
    """A stage's steps and their recent speed."""

    total: int
    done: int
    start: float
    recent: "deque[tuple[float, int]]" = field(default_factory=lambda: deque(maxlen=50))

    def __post_init__(self) -> None:
        self.recent.append((self.start, self.done))

    def step(self, done: int, now: float) -> None:
        self.done = done
        self.recent.append((now, done))

    def remaining(self, now: float) -> float | None:
        """Seconds to the end at the recent speed; None before the first step."""
        then, before = self.recent[0]
        steps = self.done - before
        return None if steps <= 0 else (self.total - self.done) * (now - then) / steps


class SilentProgress:
    """Tells nobody."""

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """Nothing."""

    def step(self, stage: str, done: int, values: Values) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def finish(self, stage: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class LogProgress(SilentProgress):
    """Plain lines for a log: the first step, one every `every_seconds` or twentieth of the stage, the last."""

    def __init__(
        self, stream: TextIO | None = None, *, clock: Clock = time.monotonic, every_seconds: float = 10.0
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._every = every_seconds
        self._pace: dict[str, _Pace] = {}
        self._printed: dict[str, tuple[float, int]] = {}

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """One line."""
        now = self._clock()
        self._pace[stage] = _Pace(total, done, now)
        self._printed[stage] = (float("-inf"), done)
        self._line(f"{stage}: {total:,} steps" + (f", {done:,} of them done" if done else ""))

    def step(self, stage: str, done: int, values: Values) -> None:
        """A line where one is due."""
        now = self._clock()
        pace = self._pace.setdefault(stage, _Pace(done, done, now))
        pace.step(done, now)
        then, before = self._printed.get(stage, (float("-inf"), 0))
        twentieth = done * 20 // max(1, pace.total) > before * 20 // max(1, pace.total)
        if now - then < self._every and not twentieth and done < pace.total:
            return
        self._printed[stage] = (now, done)
        left = pace.remaining(now)
        eta = f"  ETA {duration(left)}" if left is not None and done < pace.total else ""
        figures = describe(values)
        self._line(f"{stage} {done:,}/{pace.total:,}" + (f"  {figures}" if figures else "") + eta)

    def note(self, text: str) -> None:
        """The text, as it is but for control characters."""
        self._line(visible(text))

    def finish(self, stage: str) -> None:
        """One line with the time taken."""
        pace = self._pace.pop(stage, None)
        self._printed.pop(stage, None)
        if pace is not None:
            self._line(f"{stage}: done in {duration(self._clock() - pace.start)}")

    def _line(self, text: str) -> None:
        try:
            print(text, file=self._stream, flush=True)
        except (OSError, ValueError):
            return  # the reader of the log has gone; the run is worth more than its log


class TerminalProgress(SilentProgress):
    """A live display of two lines per stage: a bar with steps and ETA, and the figures of the latest step."""

    def __init__(
        self, stream: TextIO | None = None, *, clock: Clock = time.monotonic, console: "Console | None" = None
    ) -> None:
        """console: a rich console to draw on, for tests and notebooks; unset: one on `stream` or stderr."""
        from rich.console import Console

        self._console = console or Console(file=stream or sys.stderr, highlight=False, markup=False, emoji=False)
        self._clock = clock
        self._live: Live | None = None
        self._pace: _Pace | None = None
        self._stage = ""
        self._figures = ""

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """Begin to draw."""
        from rich.live import Live

        self.close()
        self._stage, self._figures = stage, ""
        self._pace = _Pace(total, done, self._clock())
        self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._draw)
        self._live.start()
        atexit.register(self.close)  # an error on its way out must not leave the cursor hidden

    def step(self, stage: str, done: int, values: Values) -> None:
        """New figures; drawn four times a second at most."""
        if self._pace is not None and stage == self._stage:
            self._pace.step(done, self._clock())
            self._figures = describe(values)

    def note(self, text: str) -> None:
        """A line above the bar."""
        from rich.text import Text

        self._console.print(Text(visible(text)))

    def finish(self, stage: str) -> None:
        """Leave the last state on the screen, with the time taken."""
        if self._pace is not None and stage == self._stage:
            self.close()

    def close(self) -> None:
        """Stop drawing; harmless when done twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._pace = None
            atexit.unregister(self.close)

    def _draw(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        pace = self._pace
        if pace is None:
            return Text("")
        now = self._clock()
        row = Table.grid(padding=(0, 2))
        left = pace.remaining(now)
        over = pace.done >= pace.total
        when = duration(now - pace.start) if over else "ETA " + ("..." if left is None else duration(left))
        row.add_row(
            Text(self._stage, style="bold"),
            ProgressBar(total=max(1, pace.total), completed=pace.done, width=32),
            Text(f"{pace.done:,}/{pace.total:,}"),
            Text(when, style="dim"),
        )
        return Group(row, Text(self._figures)) if self._figures else row


def make_progress(stream: TextIO | None = None) -> TerminalProgress | LogProgress:
    """A live display where `stream` (unset: stderr) is a terminal that can be drawn on, else plain lines."""
    import os

    target = sys.stderr if stream is None else stream
    drawable = target.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    return TerminalProgress(target) if drawable else LogProgress(target)
