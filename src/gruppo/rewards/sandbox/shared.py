"""Containers that both sides hold a copy of: lists, dicts, sets... that were passed or returned, kept equal.

Python passes containers by reference: a program that sorts the list it is given, or keeps it and appends to it later,
is seen by the caller. So a container that crosses gets a number that both sides know, and every later message starts
with the containers that have changed since (`changed`). Whichever side runs, it sees what the other left.

1. A change is found by comparing each container with what it held when it last crossed, item by item, by identity.
2. A container is forgotten once the judge alone refers to it no more, and when all of them together hold more than
   BUDGET items, the oldest first. What is forgotten is no longer kept equal; it crosses as a new one.
"""

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable
from operator import is_
from typing import Any

BUDGET = 20_000
"""Items in all shared containers together."""
SEQUENCES = (list, deque, bytearray)
MAPPINGS = (dict, OrderedDict, defaultdict, Counter)
KINDS = frozenset({*SEQUENCES, *MAPPINGS, set})
"""The types, exactly, that are shared."""
_ALONE = 2
"""References that `sys.getrefcount` counts for an object that only the table holds."""


def items_of(container: Any) -> tuple[Any, ...]:
    """What a container holds, in order; a mapping's keys and then its values."""
    if type(container) in MAPPINGS:
        return (*container.keys(), *container.values())
    return tuple(container)


def refill(container: Any, items: tuple[Any, ...]) -> None:
    """Give a container these items in place of its own; its identity stays."""
    kind = type(container)
    if kind is list:
        container[:] = items
    elif kind is bytearray:
        container[:] = bytes(items)
    elif kind in MAPPINGS:
        half = len(items) // 2
        container.clear()
        dict.update(container, zip(items[:half], items[half:], strict=True))
    elif kind is set:
        container.clear()
        container.update(items)
    else:
        container.clear()
        container.extend(items)


class SharedTable:
    """Numbers of the containers that both sides hold, with what each held when it last crossed."""

    def __init__(self, first: int) -> None:
        self._next = first
        self._containers: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        self._held: dict[int, tuple[Any, ...]] = {}
        self._undo: list[tuple[int, tuple[Any, ...] | None]] = []

    def begin(self) -> None:
        """Start a message that may fail."""
        self._undo.clear()

    def undo(self) -> None:
        """The message did not go out: as before `begin`."""
        for number, held in reversed(self._undo):
            if held is None:
                self.forget([number])
            elif number in self._held:
                self._held[number] = held
        self._undo.clear()

    def number(self, container: Any) -> int | None:
        """The number under which the other side knows it."""
        return self._numbers.get(id(container))

    def container(self, number: int) -> Any:
        """The container of a number. Raises KeyError."""
        return self._containers[number]

    def add(self, container: Any, number: int | None = None) -> int:
        """Share one more, under a new number of ours (two apart, so that the two sides never meet) or the peer's."""
        if number is None:
            number = self._next
            self._next += 2
        self._containers[number] = container
        self._numbers[id(container)] = number
        self._held[number] = ()
        self._undo.append((number, None))
        return number

    def crossed(self, number: int, items: tuple[Any, ...]) -> None:
        """Note what it holds now, on both sides."""
        self._undo.append((number, self._held[number]))
        self._held[number] = items

    def changed(self) -> list[tuple[int, tuple[Any, ...]]]:
        """Those that no longer hold what they did when they last crossed."""
        out = []
        for number, container in self._containers.items():
            held = self._held[number]
            items = items_of(container)
            if len(items) != len(held) or not all(map(is_, items, held)):
                out.append((number, items))
        return out

    def forget(self, numbers: Iterable[int]) -> None:
        """Share these no longer."""
        for number in numbers:
            container = self._containers.pop(number, None)
            if container is not None:
                self._numbers.pop(id(container), None)
                self._held.pop(number, None)

    def prune(self) -> tuple[int, ...]:
        """Forget what nothing else refers to, and the oldest beyond the budget; the numbers, for the other side."""
        gone: list[int] = []
        while dead := [n for n in self._containers if sys.getrefcount(self._containers[n]) <= _ALONE]:
            self.forget(dead)
            gone += dead
        room = BUDGET
        over = []
        for number in reversed(self._containers):
            room -= len(self._held[number]) + 1
            if room < 0:
                over.append(number)
        self.forget(over)
        return (*gone, *over)
