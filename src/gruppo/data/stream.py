"""The order in which problems come: shuffled passes without end, and which problems each pass leaves out.

Pass e over the data is the permutation that PCG64 draws from the seed sequence (seed, e); with nothing set, every
problem comes once per pass. What can be set changes that so:

1. Weights of data sets: the data set of each draw is chosen by weight, from seed and number of the draw; each data
   set has its own passes. Where all weights are 1 there is one pass over all of the data.
2. A slice by difficulty: problems outside of it are passed over.
3. Pool weights: with w the weight of its pool over the largest of any pool that has problems now, a problem comes
   in a share w of the passes, evenly spaced from a start of its own: in pass e if floor((e + 1) w + u) exceeds
   floor(e w + u), u uniform by seed and problem.
4. drop_after: problems that `gruppo.data.pools` calls settled are passed over. Where nothing would be left, those
   of the slice come again, and their count begins anew.

So the order is a function of the seed, the passes' positions and the groups observed, and that is the state.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gruppo.data.difficulty import DifficultySlice, empty_slice
from gruppo.data.pools import EASY, HARD, NORMAL, PassRates
from gruppo.errors import ConfigError, DataError
from gruppo.types import Group, Problem

_PASSES, _DRAWS, _STARTS = 1, 2, 3
"""What random numbers beside the plain order's are for; each has a key of its own."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What changes the order. Raises ConfigError for weights that leave nothing."""

    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    """By data set (`Problem.source`), its share of the draws relative to the others; 1 where it isn't named."""
    pool_weights: tuple[float, float, float] | None = None
    """How often a problem of the easy, normal and hard pool comes, relative to each other; None: equally."""
    drop_after: int | None = None
    """Leave out a problem after so many groups in a row of passes alone, or failures alone; None: never."""

    def __post_init__(self) -> None:
        wrong = [source for source, weight in self.weights.items() if not 0 < weight < math.inf]
        if wrong:
            raise ConfigError(f"data: the weight of '{wrong[0]}' is {self.weights[wrong[0]]}, wanted a number above 0")
        pools = self.pool_weights
        if pools is not None and not (min(pools) >= 0 and pools[NORMAL] > 0 and max(pools) < math.inf):
            raise ConfigError(
                f"pool_weights: got {pools}, wanted numbers of 0 or more for easy, normal and hard, and one above 0 "
                "for normal, where every problem begins"
            )

    @property
    def mixed(self) -> bool:
        """Whether data sets are drawn by weight."""
        return any(weight != 1 for weight in self.weights.values())


class ProblemStream:
    """Problems without end, in an order of the seed. Stateful."""

    def __init__(
        self,
        problems: Sequence[Problem],
        seed: int,
        settings: StreamSettings | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """tell: who hears of problems that were left out and come again. Raises DataError where there is nothing."""
        if not problems:
            raise DataError("data: no problems to train on.")
        self._problems = tuple(problems)
        self._seed = seed
        self._settings = settings or StreamSettings()
        self._tell = tell or (lambda text: None)
        self._drawn = 0
        self._difficulties = np.array([math.nan if p.difficulty is None else p.difficulty for p in problems])
        self._starts = _generator(_sequence(seed, _STARTS)).random(len(problems))
        self._rates = PassRates([problem.id for problem in problems])
        self._walks, self._weights = self._begin()

    def __len__(self) -> int:
        """How many problems there are."""
        return len(self._problems)

    @property
    def epoch(self) -> int:
        """Passes over the data; with weighted data sets, how many times as many problems were taken as there are."""
        return self._walks[0].epoch if len(self._walks) == 1 else self._drawn // len(self)

    @property
    def position(self) -> int:
        """How many problems of this epoch were taken or passed over."""
        return self._walks[0].position if len(self._walks) == 1 else self._drawn % len(self)

    def take(self, n: int, slice: DifficultySlice | None = None) -> list[Problem]:
        """The next n problems, of the slice alone. Where a pass ends among them, one may stand among them twice.

        Raises DataError where no problem is in the slice.
        """
        shares = self._shares(slice)
        walks = [walk for walk in self._walks if shares[walk.members].any()]
        cumulative = np.cumsum([self._weights[walk.number] for walk in walks])
        return [self._problems[self._next(walks, cumulative, shares)] for _ in range(n)]

    def observe(self, groups: Iterable[Group]) -> None:
        """Learn how problems went, from every group sampled for them."""
        self._rates.observe(groups)

    def report(self) -> dict[str, float | None]:
        """How many problems each pool holds and how many are left out, under the names of the table of metrics."""
        out, pools = self._left_out, self._rates.pools
        easy, normal, hard = (float(np.sum(~out & (pools == pool))) for pool in (EASY, NORMAL, HARD))
        dropped = None if self._settings.drop_after is None else float(out.sum())
        return {"pool_easy": easy, "pool_normal": normal, "pool_hard": hard, "problems_dropped": dropped}

    def state_dict(self) -> dict[str, Any]:
        """Positions and pass rates, with the seed and a fingerprint of the problems that they belong to."""
        return {
            "walks": [[walk.epoch, walk.position] for walk in self._walks],
            "drawn": self._drawn,
            "pass_rates": self._rates.state_dict(),
            "seed": self._seed,
            "fingerprint": self.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was. Raises DataError for a state of other problems or another seed."""
        if state["fingerprint"] != self.fingerprint:
            raise DataError(
                f"data: these {len(self)} problems are not those that the checkpoint was made with; go on "
                "with the same data, or start a run in another folder."
            )
        if state["seed"] != self._seed:
            raise DataError(
                f"seed: the checkpoint's order of problems has seed {state['seed']}, this run {self._seed}; "
                "go on with the same seed."
            )
        if len(state["walks"]) != len(self._walks):
            raise DataError("data: the checkpoint was made with other weights of the data sets; go on with the same.")
        for walk, (epoch, position) in zip(self._walks, state["walks"]):
            walk.go_to(int(epoch), int(position))
        self._drawn = int(state["drawn"])
        self._rates.load_state_dict(state["pass_rates"])

    @cached_property
    def fingerprint(self) -> str:
        """Of what decides the order and what is asked, in the problems' order; 16 hexadecimal digits.

        That is each problem's id, prompt, answer, difficulty, and which of the data sets it is from (its number, not
        its name: data may move to another folder).
        """
        digest = hashlib.sha256()
        numbers = {source: number for number, source in enumerate(self._sources)}
        for problem in self._problems:
            facts = (problem.id, problem.prompt, problem.answer, problem.difficulty, numbers[problem.source])
            digest.update(repr(facts).encode())
        return digest.hexdigest()[:16]

    @property
    def _sources(self) -> list[str]:
        """The data sets, in the order in which they come first."""
        return list(dict.fromkeys(problem.source for problem in self._problems))

    def _begin(self) -> tuple[list["_Walk"], list[float]]:
        """The walks at their start, and the weight of each."""
        if not self._settings.mixed:
            return [_Walk(0, np.arange(len(self)), lambda epoch: np.random.SeedSequence([self._seed, epoch]))], [1.0]
        sources, weights = self._sources, self._settings.weights
        missing = [source for source in weights if source not in sources]
        if missing:
            raise DataError(
                f"data: no problem of '{missing[0]}' is left to give it its weight of {weights[missing[0]]:g}; see "
                "max_problems, min_difficulty, max_difficulty and the length of its prompts, or take it out."
            )
        of = np.array([sources.index(problem.source) for problem in self._problems])
        walks = [
            _Walk(number, np.flatnonzero(of == number), partial(_sequence, self._seed, _PASSES, number))
            for number in range(len(sources))
        ]
        return walks, [weights.get(source, 1.0) for source in sources]

    def _next(self, walks: Sequence["_Walk"], cumulative: NDArray[np.float64], shares: NDArray[np.float64]) -> int:
        """The index of the next problem."""
        walk = walks[0]
        if len(self._walks) > 1:
            target = _generator(_sequence(self._seed, _DRAWS, self._drawn)).random() * cumulative[-1]
            walk = walks[min(int(np.searchsorted(cumulative, target, side="right")), len(walks) - 1)]
        self._drawn += 1
        return walk.next(lambda index, epoch: _comes(epoch, shares[index], self._starts[index]))

    @property
    def _left_out(self) -> NDArray[np.bool_]:
        """[problems], whether drop_after leaves them out."""
        after = self._settings.drop_after
        return np.zeros(len(self), dtype=np.bool_) if after is None else self._rates.settled(after)

    def _shares(self, slice: DifficultySlice | None) -> NDArray[np.float64]:
        """[problems], the share of its data set's passes in which each comes; 1 for some in every walk, or all 0."""
        inside = self._inside(slice)
        weights = np.ones(len(self))
        if self._settings.pool_weights is not None:
            weights = np.array(self._settings.pool_weights)[self._rates.pools]
        shares = np.where(inside & ~self._left_out, weights, 0.0)
        if not shares.any():
            shares = self._brought_back(inside, weights)
        for walk in self._walks:
            top = shares[walk.members].max()
            if top > 0:
                shares[walk.members] /= top
        return shares

    def _inside(self, slice: DifficultySlice | None) -> NDArray[np.bool_]:
        """[problems], whether they are in the slice."""
        if slice is None:
            return np.ones(len(self), dtype=np.bool_)
        low = -math.inf if slice.low is None else slice.low
        high = math.inf if slice.high is None else slice.high
        inside = (self._difficulties >= low) & (self._difficulties <= high)
        if not inside.any():
            raise empty_slice(self._problems, slice)
        return inside

    def _brought_back(self, inside: NDArray[np.bool_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shares where nothing would be left: what was dropped comes again, in the end whatever its pool's weight."""
        dropped = inside & self._left_out
        if dropped.any():
            self._rates.forget_streaks(dropped)
            self._tell(
                f"drop_after: nothing else is left, so the {int(dropped.sum())} problems left out come again; the "
                "problems are too easy or too hard by now"
            )
        shares = np.where(inside, weights, 0.0)
        return shares if shares.any() else inside.astype(np.float64)


class _Walk:
    """Shuffled passes without end over some of the problems."""

    def __init__(self, number: int, members: NDArray[np.int64], seed: Callable[[int], np.random.SeedSequence]) -> None:
        """members: indices of the problems. seed: of an epoch's permutation."""
        self.number = number
        self.members = members
        self._seed = seed
        self.go_to(0, 0)

    def go_to(self, epoch: int, position: int) -> None:
        """Stand at a position."""
        self.epoch, self.position = epoch, position
        self._order = self.members[_generator(self._seed(epoch)).permutation(len(self.members))]

    def next(self, wanted: Callable[[int, int], bool]) -> int:
        """The next problem that is wanted in its epoch; one of them must be in every epoch."""
        while True:
            index, epoch = int(self._order[self.position]), self.epoch
            self.position += 1
            if self.position == len(self.members):
                self.go_to(epoch + 1, 0)
            if wanted(index, epoch):
                return index


def _comes(epoch: int, share: float, start: float) -> bool:
    """Whether a problem that comes in this share of the passes comes in this one."""
    return math.floor((epoch + 1) * share + start) > math.floor(epoch * share + start)


def _sequence(seed: int, *key: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=key)


def _generator(sequence: np.random.SeedSequence) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(sequence))
