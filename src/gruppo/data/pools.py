"""How each problem has gone so far: its rolling pass rate, its pool, and whether it is to be left out.

    rate <- (rate + share of the newest group that passed) / 2,    at first: that share alone

A problem is easy at a rate of 0.8 or more, hard at 0.2 or less, else normal; without a group yet it is normal.

1. The newest group has half the weight, the one before it a quarter: the policy moves, and what it could do a few
   passes ago says little of now.
2. Always solved, or never solved: the newest `drop_after` groups were all passes, or all failures, without another
   between them.
3. Noisy problems (a wrong reference answer, a check that is chance) are not looked for. By passes alone one can't
   tell them from problems that the policy solves half of the time, which teach most; and passes that vary more over
   time than chance would have it are what learning looks like. A wrong reference answer is seldom hit, so such a
   problem ends among those never solved.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gruppo.types import Group

EASY, NORMAL, HARD = 0, 1, 2
EASY_FROM = 0.8
"""Rolling pass rate from which a problem is easy."""
HARD_TO = 0.2
"""Rolling pass rate up to which a problem is hard."""
NEWEST_SHARE = 0.5
"""Weight of the newest group in the rolling pass rate."""


class PassRates:
    """The rolling pass rate and the streak of every problem. Stateful."""

    def __init__(self, problem_ids: Sequence[str]) -> None:
        """problem_ids: in the order of the problems; results are arrays in this order."""
        self._place = {problem_id: place for place, problem_id in enumerate(dict.fromkeys(problem_ids))}
        self._places = np.array([self._place[problem_id] for problem_id in problem_ids], dtype=np.int64)
        self._rates = np.full(len(self._place), np.nan)
        self._streaks = np.zeros(len(self._place), dtype=np.int64)

    def observe(self, groups: Iterable[Group]) -> None:
        """Take in scored groups, in their order."""
        for group in groups:
            place = self._place[group.problem.id]
            share = sum(rollout.score.passed for rollout in group.rollouts) / len(group.rollouts)
            before = self._rates[place]
            self._rates[place] = share if np.isnan(before) else before + NEWEST_SHARE * (share - before)
            self._streaks[place] = _prolonged(int(self._streaks[place]), share)

    @property
    def rates(self) -> NDArray[np.float64]:
        """[problems], the rolling pass rates; NaN before the first group."""
        return self._rates[self._places]

    @property
    def pools(self) -> NDArray[np.int64]:
        """[problems], EASY, NORMAL or HARD."""
        rates = self.rates
        return np.where(rates >= EASY_FROM, EASY, np.where(rates <= HARD_TO, HARD, NORMAL))

    def settled(self, groups: int) -> NDArray[np.bool_]:
        """[problems], whether the newest so many groups were all passes, or all failures."""
        return np.abs(self._streaks[self._places]) >= groups

    def forget_streaks(self, chosen: NDArray[np.bool_]) -> None:
        """Start counting anew for the chosen [problems]; their rates stay."""
        self._streaks[self._places[chosen]] = 0

    def state_dict(self) -> dict[str, Any]:
        """Rates and streaks by problem id, of the problems that had a group."""
        seen = [(problem_id, place) for problem_id, place in self._place.items() if not np.isnan(self._rates[place])]
        return {problem_id: [float(self._rates[place]), int(self._streaks[place])] for problem_id, place in seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state that `state_dict` gave."""
        self._rates[:], self._streaks[:] = np.nan, 0
        for problem_id, (rate, streak) in state.items():
            self._rates[self._place[problem_id]] = rate
            self._streaks[self._place[problem_id]] = streak


def _prolonged(streak: int, share: float) -> int:
    """The streak after a group: n groups of passes alone are n, of failures alone -n, anything else 0."""
    if share == 1:
        return max(streak, 0) + 1
    return min(streak, 0) - 1 if share == 0 else 0
