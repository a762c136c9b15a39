"""What is asked of the sandbox and what it answers: plain values, the whole of its public words."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["namespaces", "landlock", "unsafe"]
"""How programs are kept in: `unsafe` is neither of the first two, and then whatever else the machine grants."""

How = Literal["ok", "error", "cpu", "wall", "memory", "signal", "output", "killed"]
"""How a process ended: by itself without or with an error, at a limit, by a signal, or because its job was over."""


@dataclass(frozen=True)
class Program:
    """What runs in one jailed process: `entry` is called there as `function(payload, pipe)`."""

    entry: str
    """`module:function`; the module is one of `zygote.ENTRY_MODULES`, which are loaded before anything is jailed."""
    payload: bytes


@dataclass(frozen=True)
class Limits:
    """What each process of a job may use; CPU time decides, the wall clock is a backstop for those that sleep."""

    cpu_seconds: float
    wall_seconds: float
    memory_mb: int = 512
    """MiB of address space beyond what the interpreter has at the start."""
    output_bytes: int = 1 << 20
    """Longest standard output and longest verdict; eight times as much may go to standard error."""


@dataclass(frozen=True)
class Job:
    """A candidate, and the judge that asks it and alone may give a verdict."""

    candidate: Program
    limits: Limits
    judge: Program | None = None
    stdin: bytes = b""
    """The candidate's standard input."""


@dataclass(frozen=True)
class Exit:
    """How one process ended."""

    how: How
    code: int | None
    """Its exit code, where it exited."""
    signal: int | None
    """The signal that ended it, where one did."""
    cpu_seconds: float


@dataclass(frozen=True)
class Outcome:
    """What came of a job."""

    verdict: bytes | None
    """What the judge wrote with `pipe.give_verdict`, all of it in order; None where it wrote nothing."""
    stdout: bytes
    """The candidate's standard output, up to `output_bytes`."""
    stdout_truncated: bool
    stderr: bytes
    """The last 4 KiB of the candidate's standard error."""
    candidate: Exit
    judge: Exit | None
    judge_stderr: bytes
    """The last 4 KiB of the judge's standard error: its traceback, where it failed."""
    wall_seconds: float
