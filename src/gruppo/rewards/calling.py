"""Calls of reward functions, synchronous or not, and the check of what they return.

1. An async function is awaited for all completions of a group at once. Where an event loop runs already, as
   in a notebook, a thread of its own runs them.
2. Nothing limits the time that a function takes, until rewards run in processes that can be killed.
3. Whatever a function raises or returns wrongly is a RewardError with the function's name, file and line.
"""

import asyncio
import inspect
import math
import threading
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, SupportsFloat

from gruppo.errors import RewardError
from gruppo.rewards.binding import BoundFunction, Call, Completions
from gruppo.rewards.result import RewardResult
from gruppo.types import Problem

_WANTED = "a finite number, None (does not apply) or a RewardResult"


def evaluate(bound: BoundFunction, problem: Problem, group: Completions) -> list[RewardResult | None]:
    """One result per completion; None where the reward does not apply.

    Raises RewardError where the function raises, returns what is no reward, or returns the wrong count.
    """
    if not bound.applies(problem):
        return [None] * len(group.texts)
    returned = _returned(bound, bound.arguments(problem, group), problem)
    if bound.batch:
        returned = _items(bound, returned[0], problem, len(group.texts))
    return [_result(bound, value, problem) for value in returned]


def _returned(bound: BoundFunction, calls: Sequence[Call], problem: Problem) -> list[Any]:
    """What the calls return, awaited where they are awaitable."""
    try:
        returned = [bound.function(*call.args, **call.kwargs) for call in calls]
        if any(inspect.isawaitable(value) for value in returned):
            return _await_all(returned)
    except RewardError:
        raise
    except Exception as error:
        raise RewardError(
            f"reward '{bound.name}' ({bound.place}) raised {type(error).__name__} for {problem.id}: {error}"
        ) from error
    return returned


async def _gather(values: Sequence[Any]) -> list[Any]:
    async def one(value: Any) -> Any:
        return await value if isinstance(value, Awaitable) else value

    return list(await asyncio.gather(*(one(value) for value in values)))


def _await_all(values: Sequence[Any]) -> list[Any]:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_gather(values))
    outcome: list[list[Any]] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(asyncio.run(_gather(values)))
        except BaseException as error:  # carried over to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=work, name="gruppo-async-rewards", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _items(bound: BoundFunction, returned: Any, problem: Problem, count: int) -> list[Any]:
    """The items of what a batch function returned, as many as there are completions."""
    wanted = f"wanted a list of {count} numbers, one per completion"
    if isinstance(returned, (str, bytes, dict, RewardResult)) or not isinstance(returned, Iterable):
        raise RewardError(
            f"reward '{bound.name}' ({bound.place}) returned {_shown(returned)} for {problem.id}; {wanted}."
        )
    items = list(returned)
    if len(items) != count:
        raise RewardError(
            f"reward '{bound.name}' ({bound.place}) returned {len(items)} values for the {count} completions of "
            f"{problem.id}; {wanted}."
        )
    return items


def _result(bound: BoundFunction, value: Any, problem: Problem) -> RewardResult | None:
    if value is None:
        return None
    number = _number(bound, value, problem, "")
    if not isinstance(value, RewardResult):
        return RewardResult(number)
    parts = {name: _number(bound, part, problem, name) for name, part in value.parts.items()}
    return RewardResult(number, parts, str(value.reason))


def _number(bound: BoundFunction, value: Any, problem: Problem, part: str) -> float:
    """The value as a float. Arrays and tensors of one number count as that number."""
    try:
        number = float(value) if isinstance(value, SupportsFloat) else math.nan
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if math.isfinite(number):
        return number
    of_part = f" in the part '{part}'" if part else ""
    hint = " (A function that returns a list takes `completions`, in the plural.)" if isinstance(value, list) else ""
    raise RewardError(
        f"reward '{bound.name}' ({bound.place}) returned {_shown(value)}{of_part} for {problem.id}; wanted "
        f"{_WANTED}.{hint}"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
