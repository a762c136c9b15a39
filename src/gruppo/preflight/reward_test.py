"""A rubric put to the test without a model: what must pass, what must not, how long it takes, whether it is the same
twice.

1. Lengths are counted in words, for want of a tokenizer.
2. Problems are taken evenly over the data, and tried in an order that is even too, as time may end the trial.
3. The second run goes through the problems backwards, so that what a reward remembers of earlier calls shows.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gruppo.errors import RewardError
from gruppo.preflight.examples import Example
from gruppo.preflight.findings import Evidence, Finding, findings, option
from gruppo.preflight.probes import FORM, Must, Prober
from gruppo.preflight.trial import Trial, Tried, same
from gruppo.rewards.math import math_reward
from gruppo.rewards.outcomes import Outcome
from gruppo.rewards.rubric import Rubric
from gruppo.types import Problem

PROBLEMS = 64
SECONDS = 120.0
"""For each of the two runs; then no further problem is begun."""
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class ProbeCount:
    """How a kind of completion fared."""

    probe: str
    must: Must
    tried: int
    passed: int


@dataclass(frozen=True, slots=True)
class Timing:
    """The calls of a reward."""

    reward: str
    calls: int
    median_ms: float
    p95_ms: float
    worst_ms: float
    failures: dict[str, int]
    """Calls that gave no reward, by kind."""


@dataclass(frozen=True, slots=True)
class ExampleVerdict:
    """What the rubric makes of one of the user's examples."""

    place: str
    problem: str
    passed: bool
    reward: float
    expect: bool | float | None
    agrees: bool | None
    """None: nothing was expected."""
    reasons: dict[str, str]


@dataclass(frozen=True, slots=True)
class RewardTest:
    """What the test of a rubric has shown."""

    problems: int
    """Tried."""
    chosen: int
    """That were to be tried."""
    of: int
    """In the data."""
    rewards: tuple[str, ...]
    success: str
    probes: tuple[ProbeCount, ...]
    timings: tuple[Timing, ...]
    repeated: int
    """Completions that were scored twice."""
    agreed: int
    """Of these, with the same rewards both times."""
    examples: tuple[ExampleVerdict, ...]
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def fine(self) -> bool:
        """Whether nothing must be mended."""
        return not any(finding.mend for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"fine": self.fine, **asdict(self)}


def try_rubric(
    rubric: Rubric,
    problems: Sequence[Problem],
    *,
    most: int = PROBLEMS,
    examples: Sequence[Example] = (),
    seconds: float = SECONDS,
) -> RewardTest:
    """Put a rubric to the test on problems, without a model.

    Args:
        rubric: with the pool that a run would have.
        problems: all of the data.
        most: how many of them to try.
        examples: the user's own completions.
        seconds: for each of two runs.

    Raises:
        RewardError: there is no problem, or what `Rubric.check` refuses.
    """
    if not problems:
        raise RewardError("rewards: there are no problems to try them on.")
    rubric.check(problems)
    began = time.perf_counter()
    chosen = evenly(problems, most)
    prober = Prober(chosen, _tolerance(rubric))
    with Trial(rubric) as trial, Trial(rubric) as again:
        trial.warm_up(chosen[0], prober.of(chosen[0])[0].text)
        tried = _first_run(trial, prober, chosen, seconds)
        unlike, repeated = _second_run(again, tried, seconds)
        verdicts = [_verdict(trial, example) for example in examples]
        evidence = Evidence(rubric, problems, tried, trial.failures, trial.seconds)
    return RewardTest(
        problems=len({one.problem.id for one in tried}),
        chosen=len(chosen),
        of=len(problems),
        rewards=tuple(reward.name for reward in rubric.rewards),
        success=rubric.success,
        probes=tuple(_counts(tried)),
        timings=tuple(_timings(trial)),
        repeated=repeated,
        agreed=repeated - len({(one.problem.id, one.probe) for one, _, _ in unlike}),
        examples=tuple(verdicts),
        findings=tuple(_in_order([*findings(evidence), *_disagreement(rubric, unlike), *_unexpected(verdicts)])),
        seconds=time.perf_counter() - began,
    )


def evenly(problems: Sequence[Problem], most: int) -> list[Problem]:
    """At most so many of the problems, evenly over them, in an order whose every beginning is even too."""
    count = min(most, len(problems))
    places = [index * len(problems) // count for index in range(count)]
    order = sorted(range(count), key=lambda index: index * _GOLDEN % 1.0)
    return [problems[places[index]] for index in order]


def _tolerance(rubric: Rubric) -> float:
    found = [option(reward, math_reward, "tolerance") for reward in rubric.rewards]
    return max((value for value in found if isinstance(value, float)), default=0.0)


def _first_run(trial: Trial, prober: Prober, problems: Sequence[Problem], seconds: float) -> list[Tried]:
    """Every probe of every problem, until the time is up; the first problem in any case."""
    until = time.perf_counter() + seconds
    tried: list[Tried] = []
    for problem in problems:
        if tried and time.perf_counter() > until:
            break
        probes = prober.of(problem)
        scores = trial.scores(problem, [one.text for one in probes], [one.truncated for one in probes])
        tried += [
            Tried(problem, probe, score, outcomes, trial.decided(problem, outcomes))
            for probe, (score, outcomes) in zip(probes, scores)
        ]
    return tried


Unlike = tuple[Tried, str, tuple[Outcome, Outcome]]
"""A completion, the reward that can't make up its mind, and what it said."""


def _second_run(trial: Trial, tried: Sequence[Tried], seconds: float) -> tuple[list[Unlike], int]:
    """Where the rewards of a second run differ, and how many completions it had; forms are left out."""
    until = time.perf_counter() + seconds
    by_problem: dict[str, list[Tried]] = {}
    for one in tried:
        by_problem.setdefault(one.problem.id, []).append(one)
    unlike: list[Unlike] = []
    repeated = 0
    for group in reversed(by_problem.values()):
        if repeated and time.perf_counter() > until:
            break
        batches = any(bound.batch for bound in trial.bound)
        some = [one for one in group if batches or not one.probe.name.startswith(FORM)]
        probes = [one.probe for one in some]
        scores = trial.scores(group[0].problem, [one.text for one in probes], [one.truncated for one in probes])
        repeated += len(some)
        for one, (_, outcomes) in zip(some, scores):
            for reward, before, after in zip(trial.rubric.rewards, one.outcomes, outcomes):
                if not same(reward, before, after):
                    unlike.append((one, reward.name, (before, after)))
    return unlike, repeated


def _counts(tried: Sequence[Tried]) -> Iterator[ProbeCount]:
    kinds: dict[str, list[Tried]] = {}
    for one in tried:
        kinds.setdefault(one.probe.name, []).append(one)
    for name, some in sorted(kinds.items(), key=lambda item: _RANK[item[1][0].probe.must]):
        yield ProbeCount(name, some[0].probe.must, len(some), sum(one.score.passed for one in some))


_RANK: dict[Must, int] = {"pass": 0, "fail": 1, "either": 2}


def _timings(trial: Trial) -> Iterator[Timing]:
    for name, seconds in trial.seconds.items():
        kinds = Counter(failure.kind for failure in trial.failures if failure.reward == name)
        ordered = sorted(seconds) or [0.0]
        last = len(ordered) - 1
        median, high, worst = (1000 * ordered[round(share * last)] for share in (0.5, 0.95, 1.0))
        yield Timing(name, len(seconds), median, high, worst, dict(kinds))


def _verdict(trial: Trial, example: Example) -> ExampleVerdict:
    [(score, _)] = trial.scores(example.problem, [example.completion])
    return ExampleVerdict(
        place=example.place,
        problem=example.problem.id,
        passed=score.passed,
        reward=score.reward,
        expect=example.expect,
        agrees=example.agrees(score.passed, score.reward),
        reasons={**score.reasons, **score.errors},
    )


def _disagreement(rubric: Rubric, unlike: Sequence[Unlike]) -> Iterator[Finding]:
    for reward in rubric.rewards:
        some = [(one, pair) for one, name, pair in unlike if name == reward.name]
        if not some:
            continue
        lines = [f"{one.problem.id}, '{one.probe.name}': {_told(pair[0])}, then {_told(pair[1])}" for one, pair in some]
        yield Finding(
            "disagreement",
            True,
            f"reward '{reward.name}' gives {len(some)} completions another reward the second time",
            tuple(lines[:3]),
            "leave out clocks, random numbers and anything remembered from call to call; answers from elsewhere have "
            "to be the same for the same text.",
            tuple(dict.fromkeys(one.problem.id for one, _ in some)),
        )


def _told(outcome: Outcome) -> str:
    if outcome is None:
        return "None"
    return f"{outcome.value:.6g}" if isinstance(outcome, float) else outcome.told("it")


def _unexpected(verdicts: Sequence[ExampleVerdict]) -> Iterator[Finding]:
    wrong = [verdict for verdict in verdicts if verdict.agrees is False]
    if wrong:
        yield Finding(
            "examples",
            True,
            f"{len(wrong)} of {len(verdicts)} examples are not scored as expected",
            tuple(_surprise(verdict) for verdict in wrong[:5]),
            "mend the reward, or what the file expects.",
            tuple(verdict.place for verdict in wrong),
        )


def _surprise(verdict: ExampleVerdict) -> str:
    got = f"reward {verdict.reward:.4g}, {'passes' if verdict.passed else 'does not pass'}"
    expected = verdict.expect
    wanted = f"reward {expected:g}"
    if isinstance(expected, bool):
        wanted = "a pass" if expected else "no pass"
    reasons = "; ".join(f"{name}: {reason}" for name, reason in verdict.reasons.items())
    return f"{verdict.place}: expected {wanted}, got {got}" + (f" ({reasons})" if reasons else "")


def _in_order(found: Sequence[Finding]) -> list[Finding]:
    """What must be mended first."""
    return sorted(found, key=lambda finding: not finding.mend)
