"""Calls of reward functions, synchronous or not, one outcome for each completion.

The same code runs in the trainer and in a worker process.

1. An async function is awaited for all completions of a group at once. Where an event loop runs already, as
   in a notebook, a thread of its own runs them.
2. Nothing here limits the time that a function takes: `gruppo.rewards.workers` does.
3. In a worker, before each call Python's own random numbers (and NumPy's, where it is loaded) are seeded with the
   call's arguments, so that a function that draws gives the same in any process, whatever it was asked before.
"""

import asyncio
import inspect
import random
import sys
import threading
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from gruppo.errors import GruppoError
from gruppo.rewards.binding import Call
from gruppo.rewards.outcomes import Failure, Outcome, late, outcome_of, raised, shown
from gruppo.rewards.result import RewardResult

Numbered = tuple[int, Outcome]
"""Which completion of the group, and what its call came to."""


def outcomes(
    function: Callable[..., Any], batch: bool, calls: Sequence[Call], count: int, seconds: float | None = None
) -> Iterator[Numbered]:
    """The outcome of each of `count` completions, as they come.

    Args:
        function: what to call.
        batch: whether one call is for all completions.
        calls: one for each completion, or one.
        count: completions.
        seconds: that an async call may take to answer, and the sign of a process of its own, where random numbers
            are seeded before each call; None: no limit, and random numbers are the caller's.

    Raises:
        GruppoError: the function raised one.
    """
    waiting: dict[int, Awaitable[Any]] = {}
    for index, call in enumerate(calls):
        if seconds is not None:
            _reseed(call)
        try:
            value = function(*call.args, **call.kwargs)
        except GruppoError:
            raise
        except (Exception, SystemExit) as error:
            yield from _numbered(index, batch, count, raised(error))
            continue
        if inspect.isawaitable(value):
            waiting[index] = value
        else:
            yield from _of_value(index, batch, count, value)
    if waiting:
        for index, value in zip(waiting, _await_all(list(waiting.values()), seconds), strict=True):
            if isinstance(value, GruppoError):
                raise value
            if isinstance(value, Failure):
                yield from _numbered(index, batch, count, value)
            elif isinstance(value, BaseException):
                yield from _numbered(index, batch, count, raised(value))
            else:
                yield from _of_value(index, batch, count, value)


def _numbered(index: int, batch: bool, count: int, outcome: Outcome) -> Iterator[Numbered]:
    """One outcome for the completion, or for all of them where one call was for all."""
    return ((each, outcome) for each in (range(count) if batch else (index,)))


def _of_value(index: int, batch: bool, count: int, value: Any) -> Iterator[Numbered]:
    if not batch:
        yield index, outcome_of(value)
        return
    items = _items(value, count)
    if isinstance(items, Failure):
        yield from _numbered(index, batch, count, items)
    else:
        yield from ((each, outcome_of(item)) for each, item in enumerate(items))


def _items(returned: Any, count: int) -> list[Any] | Failure:
    """The items of what a batch function returned, as many as there are completions."""
    wanted = f"; wanted a list of {count} numbers, one per completion."
    if isinstance(returned, (str, bytes, dict, RewardResult)) or not isinstance(returned, Iterable):
        return Failure("returned", f"returned {shown(returned)} for", wanted, fatal=True)
    items = list(returned)
    if len(items) != count:
        return Failure("returned", f"returned {len(items)} values for the {count} completions of", wanted, fatal=True)
    return items


def _reseed(call: Call) -> None:
    seed = zlib.crc32(repr((call.args, sorted(call.kwargs))).encode("utf-8", "replace"))
    for name in ("completion", "generated", "generated_code", "completions"):
        seed = zlib.crc32(str(call.kwargs.get(name, "")).encode("utf-8", "replace"), seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)


def _await_all(values: Sequence[Awaitable[Any]], seconds: float | None) -> list[Any]:
    """What the awaitables come to, exceptions among them, and a failure for one that took too long."""

    async def limited(value: Awaitable[Any]) -> Any:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await value
        except TimeoutError:
            if seconds is not None and limit.expired():
                return late(seconds)
            raise

    async def gathered() -> list[Any]:
        return list(await asyncio.gather(*map(limited, values), return_exceptions=True))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(gathered())
    outcome: list[list[Any]] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(asyncio.run(gathered()))
        except BaseException as error:  # carried over to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=work, name="gruppo-async-rewards", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
