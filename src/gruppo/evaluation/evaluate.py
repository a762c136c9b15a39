"""Evaluation on held-out problems: pass@1 sampled and greedy, pass@k, with intervals, and the paired comparison."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gruppo.evaluation.statistics import Estimate, bootstrap_interval, paired_difference, pass_at_k
from gruppo.rollout.collect import Collector
from gruppo.rollout.draws import derive_seed
from gruppo.types import Group, Problem, ProgressObserver, SamplingParams

CHUNK = 64
"""Problems evaluated between two words to the observer."""


@dataclass(frozen=True, slots=True)
class ProblemResult:
    """How one problem went."""

    id: str
    passes: int
    samples: int
    greedy: bool | None
    labelled: int = 0
    """Samples with the label that was asked for (such as: worked out)."""
    labelled_passes: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of one evaluation; every estimate with its 95 % interval, bootstrapped over problems."""

    per_problem: tuple[ProblemResult, ...]
    samples: int
    temperature: float
    mean_length: float
    truncated_share: float
    seed: int
    label: str | None = None

    @property
    def pass_at_1(self) -> Estimate:
        """Share of sampled completions that pass."""
        return self._estimate(self.values(1))

    @property
    def pass_at_k(self) -> Estimate:
        """Chance that one of k = `samples` completions passes."""
        return self._estimate(self.values(self.samples))

    @property
    def pass_at_1_greedy(self) -> Estimate | None:
        """Share of problems that the greedy completion solves."""
        greedy = [result.greedy for result in self.per_problem]
        return None if None in greedy else self._estimate(np.array(greedy, dtype=np.float64))

    @property
    def share_labelled(self) -> float | None:
        """Share of sampled completions with the label."""
        if self.label is None:
            return None
        return sum(r.labelled for r in self.per_problem) / (self.samples * len(self.per_problem))

    @property
    def accuracy_given_label(self) -> float | None:
        """Share of passes among the sampled completions with the label."""
        labelled = sum(result.labelled for result in self.per_problem)
        passes = sum(result.labelled_passes for result in self.per_problem)
        return passes / labelled if self.label is not None and labelled else None

    def values(self, k: int) -> NDArray[np.float64]:
        """[problems], pass@k of each."""
        return np.array([pass_at_k(r.samples, r.passes, k) for r in self.per_problem], dtype=np.float64)

    def _estimate(self, values: NDArray[np.float64]) -> Estimate:
        return bootstrap_interval(values, seed=self.seed)

    def to_json(self) -> dict[str, Any]:
        """The evaluation as it stands in RUN/eval/*.json."""
        greedy = self.pass_at_1_greedy
        extra = {}
        if self.label is not None:
            extra = {
                f"share_{self.label}": self.share_labelled,
                f"accuracy_given_{self.label}": self.accuracy_given_label,
            }
        return {
            "problems": len(self.per_problem),
            "samples": self.samples,
            "temperature": self.temperature,
            "pass_at_1": asdict(self.pass_at_1),
            "pass_at_1_greedy": None if greedy is None else asdict(greedy),
            f"pass_at_{self.samples}": asdict(self.pass_at_k),
            "mean_length": self.mean_length,
            "truncated_share": self.truncated_share,
            "seed": self.seed,
            "label": self.label,
            "extra": extra,
            "per_problem": [asdict(result) for result in self.per_problem],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Evaluation":
        """An evaluation as `to_json` wrote it."""
        return cls(
            per_problem=tuple(ProblemResult(**row) for row in data["per_problem"]),
            samples=data["samples"],
            temperature=data["temperature"],
            mean_length=data["mean_length"],
            truncated_share=data["truncated_share"],
            seed=data["seed"],
            label=data["label"],
        )


@dataclass(frozen=True, slots=True)
class Label:
    """A property of completions that is counted beside passing."""

    name: str
    holds: Callable[[str], bool]
    verb: str
    """What completions with the label do, for sentences: "work the answer out"."""


@dataclass(frozen=True, slots=True)
class Evaluator:
    """What an evaluation needs: the sampling side, the problems, and how many samples to draw."""

    collector: Collector
    problems: Sequence[Problem]
    sampling: SamplingParams
    samples: int
    greedy: bool
    seed: int
    label: Label | None = None
    observer: ProgressObserver | None = field(default=None)

    def evaluate(self, stage: str) -> Evaluation:
        """Evaluate the engine's present weights. The seed is the same each time, so that comparisons are paired."""
        sampler = replace(self.collector, sampling=self.sampling, group_size=self.samples)
        argmax = replace(sampler, sampling=replace(self.sampling, temperature=0.0, top_k=0, top_p=1.0), group_size=1)
        seed = derive_seed(self.seed, "evaluation")
        results: list[ProblemResult] = []
        lengths: list[int] = []
        failed: list[str] = []
        truncated = 0
        if self.observer:
            self.observer.start(stage, len(self.problems))
        for start in range(0, len(self.problems), CHUNK):
            chunk = self.problems[start : start + CHUNK]
            groups = sampler.collect(chunk, seed).groups
            greedy = argmax.collect(chunk, seed).groups if self.greedy else (None,) * len(chunk)
            results += [self._result(*pair) for pair in zip(groups, greedy, strict=True)]
            completions = [rollout.completion for group in groups for rollout in group.rollouts]
            lengths += map(len, completions)
            failed += _failures(groups)
            truncated += sum(completion.truncated for completion in completions)
            if self.observer:
                passes = sum(result.passes for result in results) / (self.samples * len(results))
                self.observer.step(stage, len(results), {"pass_at_1": passes})
        if self.observer:
            if failed:
                self.observer.note(f"{stage}: a reward failed on {len(failed)} completions, such as {failed[0]}")
            self.observer.finish(stage)
        return Evaluation(
            per_problem=tuple(results),
            samples=self.samples,
            temperature=self.sampling.temperature,
            mean_length=float(np.mean(lengths)),
            truncated_share=truncated / len(lengths),
            seed=self.seed,
            label=self.label.name if self.label else None,
        )

    def _result(self, group: Group, greedy: Group | None) -> ProblemResult:
        labelled = [r for r in group.rollouts if self.label is not None and self.label.holds(r.text)]
        return ProblemResult(
            id=group.problem.id,
            passes=sum(rollout.score.passed for rollout in group.rollouts),
            samples=len(group.rollouts),
            greedy=None if greedy is None else greedy.rollouts[0].score.passed,
            labelled=len(labelled),
            labelled_passes=sum(rollout.score.passed for rollout in labelled),
        )


def _failures(groups: Sequence[Group]) -> Iterator[str]:
    """What went wrong in scoring, each with its problem."""
    for group in groups:
        for rollout in group.rollouts:
            yield from (f"{group.problem.id}: {error}" for error in rollout.score.errors.values())


def compare(before: Evaluation, after: Evaluation) -> dict[str, Estimate]:
    """Paired differences, after minus before, on the same problems: pass@1, greedy, pass@k."""
    differences = {
        "pass_at_1": paired_difference(before.values(1), after.values(1), seed=after.seed),
        f"pass_at_{after.samples}": paired_difference(
            before.values(before.samples), after.values(after.samples), seed=after.seed
        ),
    }
    greedy = [[r.greedy for r in evaluation.per_problem] for evaluation in (before, after)]
    if None not in greedy[0] and None not in greedy[1]:
        first, second = (np.array(values, dtype=np.float64) for values in greedy)
        differences["pass_at_1_greedy"] = paired_difference(first, second, seed=after.seed)
    return differences
