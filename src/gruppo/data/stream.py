"""The order in which problems come: shuffled epochs without end.

Epoch e is the permutation that PCG64 draws from the seed sequence (seed, e), so the order is a function of
seed and position, and a state is two numbers.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gruppo.errors import DataError
from gruppo.types import Problem


class ProblemStream:
    """Problems without end, each once per epoch, in an order of the seed. Stateful."""

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        if not problems:
            raise DataError("data: no problems to train on.")
        self._problems = tuple(problems)
        self._seed = seed
        self._epoch = 0
        self._position = 0
        self._order = self._permutation(0)

    def __len__(self) -> int:
        """Problems per epoch."""
        return len(self._problems)

    @property
    def epoch(self) -> int:
        """How many times every problem was taken."""
        return self._epoch

    @property
    def position(self) -> int:
        """How many problems of this epoch were taken."""
        return self._position

    def take(self, n: int) -> list[Problem]:
        """The next n problems. Where an epoch ends among them, a problem may stand among them twice."""
        taken: list[Problem] = []
        while len(taken) < n:
            chosen = self._order[self._position : self._position + n - len(taken)]
            taken += [self._problems[int(index)] for index in chosen]
            self._position += len(chosen)
            if self._position == len(self):
                self._epoch, self._position = self._epoch + 1, 0
                self._order = self._permutation(self._epoch)
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Epoch and position, with the seed and a fingerprint of the problems that they belong to."""
        return {
            "epoch": self._epoch,
            "position": self._position,
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
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
        self._order = self._permutation(self._epoch)

    @property
    def fingerprint(self) -> str:
        """Of the problems' ids, prompts and answers, in their order; 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for problem in self._problems:
            digest.update(repr((problem.id, problem.prompt, problem.answer)).encode())
        return digest.hexdigest()[:16]

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, epoch])))
        return generator.permutation(len(self._problems))
