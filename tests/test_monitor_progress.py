"""What a log and a terminal show, literally, under a clock of our own."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from gruppo.monitor.progress import LogProgress, SilentProgress, TerminalProgress, make_progress
from gruppo.types import ProgressObserver

VALUES = {
    "reward_mean": 0.31,
    "pass_at_1": 0.28,
    "kl_to_reference": 0.00123,
    "completion_length_mean": 43.4,
    "tokens_per_second": 4210.3,
    "loss": 0.0123,
}


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def log(total: int, seconds: float, steps: int | None = None, done: int = 0) -> list[str]:
    """The lines of a stage whose steps take so long each."""
    stream, clock = io.StringIO(), FakeClock()
    progress = LogProgress(stream, clock=clock)
    progress.start("grpo", total, done)
    for step in range(done + 1, (steps or total) + 1):
        clock.now += seconds
        progress.step("grpo", step, {"loss": 0.5})
    progress.finish("grpo")
    return stream.getvalue().splitlines()


def test_a_log_line_says_where_how_well_and_how_long() -> None:
    stream, clock = io.StringIO(), FakeClock()
    progress = LogProgress(stream, clock=clock)
    progress.start("grpo", 100)
    clock.now += 2.0
    progress.step("grpo", 1, VALUES)
    progress.note("bad \x1b[31m text")
    assert stream.getvalue().splitlines() == [
        "grpo: 100 steps",
        "grpo 1/100  reward 0.310  pass@1 0.280  KL 0.0012  length 43  4,210 tokens/s  loss 0.0123  ETA 3 min 18 s",
        "bad \\x1b[31m text",
    ]


def test_slow_steps_are_logged_every_ten_seconds() -> None:
    assert log(1000, 4.0, steps=8) == [
        "grpo: 1,000 steps",
        "grpo 1/1,000  loss 0.5000  ETA 1 h 06 min",
        "grpo 4/1,000  loss 0.5000  ETA 1 h 06 min",
        "grpo 7/1,000  loss 0.5000  ETA 1 h 06 min",
        "grpo: done in 32 s",
    ]


def test_fast_steps_are_logged_every_twentieth_and_at_the_end() -> None:
    lines = log(100, 0.01)
    assert [line.split()[1] for line in lines[1:-1]] == ["1/100", *(f"{n}/100" for n in range(5, 101, 5))]
    assert lines[-2:] == ["grpo 100/100  loss 0.5000", "grpo: done in 1 s"]


def test_a_resumed_stage_counts_only_its_own_steps_in_the_eta() -> None:
    assert log(100, 60.0, steps=52, done=50) == [
        "grpo: 100 steps, 50 of them done",
        "grpo 51/100  loss 0.5000  ETA 49 min 00 s",
        "grpo 52/100  loss 0.5000  ETA 48 min 00 s",
        "grpo: done in 2 min 00 s",
    ]


def test_the_eta_follows_the_recent_speed() -> None:
    stream, clock = io.StringIO(), FakeClock()
    progress = LogProgress(stream, clock=clock)
    progress.start("sft", 200)
    for step in range(1, 101):
        clock.now += 10.0 if step <= 50 else 1.0
        progress.step("sft", step, {})
    assert stream.getvalue().splitlines()[-1] == "sft 100/200  ETA 1 min 40 s"


def test_a_log_whose_reader_has_gone_does_not_stop_the_run() -> None:
    stream = io.StringIO()
    progress = LogProgress(stream)
    stream.close()
    with pytest.raises(ValueError, match="closed file"):
        stream.write("what each of these would raise")
    progress.start("grpo", 2)
    progress.step("grpo", 1, VALUES)
    progress.finish("grpo")


def terminal() -> tuple[TerminalProgress, io.StringIO, FakeClock]:
    stream, clock = io.StringIO(), FakeClock()
    console = Console(file=stream, force_terminal=True, width=120, markup=False, highlight=False, color_system=None)
    return TerminalProgress(clock=clock, console=console), stream, clock


def test_a_terminal_shows_a_bar_and_a_line_of_figures() -> None:
    progress, stream, clock = terminal()
    with progress:
        progress.start("grpo", 100)
        clock.now += 2.0
        progress.step("grpo", 1, VALUES)
        progress.note("[red]not markup[/red] \x1b[2J")
        clock.now += 198.0
        progress.step("grpo", 100, VALUES)
        progress.finish("grpo")
    text = stream.getvalue()
    assert "grpo" in text
    assert "100/100" in text
    assert "3 min 20 s" in text
    assert "reward 0.310  pass@1 0.280  KL 0.0012  length 43  4,210 tokens/s  loss 0.0123" in text
    assert "[red]not markup[/red] \\x1b[2J" in text
    assert text.endswith("\x1b[?25h")  # the cursor is back


def test_a_terminal_gives_the_cursor_back_when_a_stage_breaks_off() -> None:
    progress, stream, _ = terminal()

    def broken_off() -> None:
        with progress:
            progress.start("grpo", 100)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert stream.getvalue().endswith("\x1b[?25h")
    progress.close()
    progress.finish("grpo")


def test_a_terminal_is_drawn_on_and_anything_else_is_logged_to(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_progress(Tty()), TerminalProgress)
    assert isinstance(make_progress(io.StringIO()), LogProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_progress(Tty()), LogProgress)


def test_all_of_them_are_observers_and_write_to_stderr() -> None:
    observers: list[ProgressObserver] = [SilentProgress(), LogProgress(io.StringIO()), terminal()[0]]
    for observer in observers:
        observer.start("eval", 1)
        observer.step("eval", 1, {})
        observer.note("x")
        observer.finish("eval")
    code = "from gruppo.monitor.progress import make_progress as m; p = m(); p.start('sft', 1); p.note('hello')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "sft: 1 steps\nhello\n")
