"""Which walls this machine grants, found out by building them and trying them from inside."""

from dataclasses import dataclass

from gruppo.errors import SandboxError
from gruppo.rewards.sandbox import frames
from gruppo.rewards.sandbox.client import Zygote, exchange
from gruppo.rewards.sandbox.job import Job, Level, Limits, Outcome, Program

_TRIAL = Job(Program("gruppo.rewards.sandbox.check:walls", b""), Limits(cpu_seconds=10, wall_seconds=60))
BEST_FIRST: tuple[Level, ...] = ("namespaces", "landlock")


@dataclass(frozen=True)
class Probe:
    """For each level that isolates: empty where it works here, else why not."""

    namespaces: str
    landlock: str

    @property
    def best(self) -> Level:
        """The best level that works."""
        if not self.namespaces:
            return "namespaces"
        return "unsafe" if self.landlock else "landlock"

    def __str__(self) -> str:
        """One line for people.

        >>> str(Probe(namespaces="refused", landlock=""))
        'landlock (namespaces: refused)'
        """
        reasons = [f"{level}: {getattr(self, level)}" for level in BEST_FIRST if getattr(self, level)]
        return f"{self.best} ({'; '.join(reasons)})" if reasons else f"{self.best}"


def probe() -> Probe:
    """Try each level in processes of its own, which end with the trial."""
    return Probe(**{level: why_not(level) for level in BEST_FIRST})


def why_not(level: Level) -> str:
    """Empty where a jail of this level is built and holds; else what went wrong."""
    try:
        start(level).stop()
    except SandboxError as error:
        return str(error)
    return ""


def start(level: Level) -> Zygote:
    """A zygote at this level; but for `unsafe`, one in whose jail a trial program has found no way out.

    Raises:
        SandboxError: the walls could not be built, or do not hold.
    """
    zygote = Zygote(level)
    if level == "unsafe":
        return zygote
    try:
        problem = _problem(exchange(zygote, _TRIAL))
    except frames.Lost:
        problem = "its processes are ended as soon as they start"
    except SandboxError as error:
        problem = str(error)
    if problem:
        zygote.stop()
        raise SandboxError(problem)
    return zygote


def _problem(outcome: Outcome) -> str:
    """What is wrong with the jail that the trial ran in, if anything."""
    if outcome.candidate.how != "ok":
        return f"a jailed process ended with {outcome.candidate}: {outcome.stderr.decode(errors='replace')[-200:]}"
    open_ways = outcome.stdout.decode(errors="replace").split("\n")[:-1]
    return f"a jailed process {', '.join(open_ways)}" if open_ways else ""
