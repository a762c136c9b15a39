"""Where the calls of a reward run, and what they cost.

| place | which rewards | what can go wrong |
|---|---|---|
| here | built-in functions of text, total and quick; yours with `isolation: inline` | all of it, to this process |
| thread | those that wait for processes or machines of their own: programs in the sandbox, reward models | nothing |
| process | yours, and what no limit within a process can stop: math-verify, regular expressions | a failure |
"""

import inspect
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from gruppo.rewards.binding import BoundFunction, Call, Completions, underlying
from gruppo.rewards.calling import outcomes
from gruppo.rewards.outcomes import Outcome
from gruppo.rewards.process import Portable
from gruppo.rewards.workers import WorkerPool, by_value
from gruppo.types import Problem

Place = Literal["here", "thread", "process"]
Pending = Callable[[], list[Outcome]]
"""Waits for the outcomes of a group, one for each completion, in order."""

SLOW_SECONDS = 1.0
"""A call slower than this is worth a warning."""
_ENOUGH_CALLS = 8


@dataclass
class Dispatch:
    """The calls of one reward, sent to where they belong."""

    bound: BoundFunction
    place: Place
    seconds: float
    """Limit for one completion."""
    pool: WorkerPool | None
    """None: everything runs here."""
    portable: Portable | None = None
    """What a worker loads; None: the function by value."""
    fast: Callable[..., Outcome] | None = None
    """Takes the same arguments, and decides most calls here at once; None from it sends the call on."""
    _timed: list[float] = field(default_factory=list[float])

    def begin(self, problem: Problem, group: Completions) -> Pending:
        """Start the calls for a group; the outcomes are waited for where they are needed.

        Raises:
            RewardError: a parameter can't be bound, or the function can't be sent to a process.
        """
        count = len(group.texts)
        if not self.bound.applies(problem):
            return lambda: [None] * count
        calls = self.bound.arguments(problem, group)
        if self.pool is None or self.place == "here":
            found = self._here(calls, count)
            return lambda: found
        if self.place == "thread":
            return self.pool.run(lambda: self._here(calls, count)).result
        return self._elsewhere(self.pool, calls, count)

    @property
    def slow_seconds(self) -> float | None:
        """Mean seconds of a call, where that is too long and enough calls were made to say so."""
        calls = len(self._timed)
        mean = sum(self._timed) / calls if calls else 0.0
        return mean if calls >= _ENOUGH_CALLS and mean > SLOW_SECONDS else None

    def _here(self, calls: Sequence[Call], count: int) -> list[Outcome]:
        began = time.perf_counter()
        numbered = dict(outcomes(self.bound.function, self.bound.batch, calls, count))
        self._time(time.perf_counter() - began, count)
        return [numbered[index] for index in range(count)]

    def _elsewhere(self, pool: WorkerPool, calls: Sequence[Call], count: int) -> Pending:
        found: dict[int, Outcome] = {}
        if self.fast is not None:
            quick = {index: self.fast(*call.args, **call.kwargs) for index, call in enumerate(calls)}
            found = {index: outcome for index, outcome in quick.items() if outcome is not None}
        left = [index for index in range(count) if index not in found]
        if not left:
            return lambda: [found[index] for index in range(count)]
        chosen = calls if self.bound.batch else [calls[index] for index in left]
        began = time.perf_counter()
        if self.portable is None:
            self.portable = by_value(self.bound.name, self.bound.function, is_async(self.bound.function))
        future = pool.submit(self.portable, self.bound.batch, chosen, len(left), self.seconds)
        future.add_done_callback(lambda done: self._time(_worked(done, began), len(left)))

        def wait() -> list[Outcome]:
            found.update(zip(left, future.result().outcomes, strict=True))
            return [found[index] for index in range(count)]

        return wait

    def _time(self, seconds: float, count: int) -> None:
        if count and len(self._timed) < 10_000:
            self._timed += [seconds / count] * count


def is_async(function: Callable[..., Any]) -> bool:
    """Whether it is declared with `async def`."""
    return inspect.iscoroutinefunction(underlying(function))


def _worked(done: "Future[Any]", began: float) -> float:
    """Seconds that the calls themselves took, the wait for a free process left out."""
    failed = done.cancelled() or done.exception() is not None
    return time.perf_counter() - began if failed else done.result().seconds
