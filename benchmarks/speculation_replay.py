"""Recorded batches decoded once more, with drafts: what would be accepted, and which calls it would take."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gruppo.monitor.rollout_table import read_rollout_table

SIZES = (4, 3, 2)
"""Numbers of last tokens by which drafts are looked up."""
LONGEST = SIZES[0]
START = (-1,) * LONGEST
"""Stands before a completion for the end of its prompt."""
SOURCES = ("finished", "siblings", "earlier", "last step", "all", "oracle")
Tokens = tuple[int, ...]
Grams = dict[Tokens, Counter[int]]


@dataclass(frozen=True)
class Batch:
    """The completions of one step, or of some groups of it, and what was known before it."""

    groups: list[list[Tokens]]
    earlier: list[Grams]
    """By group."""
    last_step: Grams


def add(grams: Grams, context: Sequence[int], token: int) -> None:
    """Count a token under the last tokens before it."""
    for size in SIZES:
        grams[tuple(context[-size:])][token] += 1


def indexed(completions: Sequence[Tokens]) -> Grams:
    """Whole completions."""
    grams: Grams = defaultdict(Counter)
    for tokens in completions:
        told = START + tokens
        for place in range(LONGEST, len(told)):
            add(grams, told[place - LONGEST : place], told[place])
    return grams


def drafted(context: Tokens, most: int, sure: float, known: Sequence[Grams]) -> list[int]:
    """Tokens that may follow.

    Args:
        context: the last LONGEST tokens.
        most: tokens of the draft.
        sure: it ends before a token that came less often than in this share of the cases (and one case more).
        known: what to look up in; the first comes first at equal length.
    """
    draft: list[int] = []
    while len(draft) < most:
        found = None
        for size in SIZES:
            end = context[-size:]
            found = next((grams[end] for grams in known if end in grams), None)
            if found:
                break
        if not found:
            break
        token = max(found, key=found.__getitem__)
        if sure and found[token] < sure * (found.total() + 1):
            break
        draft.append(token)
        context = (*context[1:], draft[-1])
    return draft


class Replay:
    """One batch decoded with one source, length of drafts, sureness (as in `drafted`) and gate."""

    def __init__(self, batch: Batch, source: str, most: int, gate: int, sure: float = 0.0) -> None:
        self.batch, self.source, self.most, self.gate, self.sure = batch, source, most, gate, sure
        self.grams: list[Grams] = [defaultdict(Counter) for _ in batch.groups]
        self.rows = [(group, START + tokens) for group, row in enumerate(batch.groups) for tokens in row]
        self.places = [LONGEST] * len(self.rows)
        self.calls: Counter[tuple[int, int, int]] = Counter()
        """By live rows, tokens of the longest (1: a decode step), tokens of all."""
        self.checked = self.gained = 0
        """Verifications of a row, and the tokens that they gave."""
        self.looking_up_s = 0.0
        """Of drafting, and of learning what to draft from, which goes on above the gate too."""

    def run(self) -> "Replay":
        """To the end of the longest row."""
        live = list(range(len(self.rows)))
        while live:
            drafts = self._drafts(live) if len(live) <= self.gate else [[] for _ in live]
            sizes = [1 + len(draft) for draft in drafts]
            self.calls[len(live), max(sizes), sum(sizes)] += 1
            steps = [self._right(row, draft) for row, draft in zip(live, drafts, strict=True)]
            begun = time.perf_counter()
            for row, step in zip(live, steps, strict=True):
                self._learn(row, step)
            self.looking_up_s += time.perf_counter() - begun
            live = [row for row in live if self.places[row] < len(self.rows[row][1])]
        return self

    def _drafts(self, live: list[int]) -> list[list[int]]:
        if self.source == "oracle":
            return [list(self._told(row, self.places[row], self.most)) for row in live]
        begun = time.perf_counter()
        found: list[list[int]] = []
        for row in live:
            group, told = self.rows[row]
            last = told[self.places[row] - LONGEST : self.places[row]]
            found.append(drafted(last, self.most, self.sure, self._known(group)))
        self.looking_up_s += time.perf_counter() - begun
        return found

    def _told(self, row: int, place: int, count: int) -> Tokens:
        """Tokens of a row from a place on; never the last one, which a draft need not hold."""
        return self.rows[row][1][place : min(place + count, len(self.rows[row][1]) - 1)]

    def _known(self, group: int) -> list[Grams]:
        own, before, last = self.grams[group], self.batch.earlier[group], self.batch.last_step
        return {
            "finished": [own],
            "siblings": [own],
            "earlier": [before],
            "last step": [last],
            "all": [own, before, last],
        }[self.source]

    def _right(self, row: int, draft: list[int]) -> int:
        """Tokens that the row gets: the right ones, and the one that is drawn behind them."""
        told, place = self.rows[row][1], self.places[row]
        right = 0
        while right < len(draft) and place + right < len(told) - 1 and draft[right] == told[place + right]:
            right += 1
        if draft:
            self.checked += 1
            self.gained += right + 1
        return right + 1

    def _learn(self, row: int, step: int) -> None:
        group, told = self.rows[row]
        first = self.places[row]
        self.places[row] = last = first + step
        if self.source == "finished":
            first = LONGEST if last == len(told) else last
        if self.source in ("finished", "siblings", "all"):
            for place in range(first, last):
                add(self.grams[group], told[place - LONGEST : place], told[place])


def batches(run: Path, rows: int | None, count: int) -> Iterator[Batch]:
    """From steps spread evenly over a run, the first and the last one that knows an epoch before among them."""
    files = sorted((run / "rollouts").glob("step-*.parquet"))
    steps = [_groups(file) for file in files]
    for number in np.linspace(len(steps) // 3, len(steps) - 1, count).astype(int):
        groups = list(steps[number].items())
        groups = groups[: rows // len(groups[0][1]) if rows else None]
        before = [next((s[name] for s in reversed(steps[:number]) if name in s), []) for name, _ in groups]
        last = [tokens for group in steps[number - 1].values() for tokens in group]
        yield Batch([group for _, group in groups], [indexed(group) for group in before], indexed(last))


def _groups(file: Path) -> dict[str, list[Tokens]]:
    found: dict[str, list[Tokens]] = {}
    for row in read_rollout_table(file, ["problem_id", "token_ids"]):
        found.setdefault(row["problem_id"], []).append(tuple(row["token_ids"]))
    return found
