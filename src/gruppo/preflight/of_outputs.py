"""What the starting model's completions have against a run; cures are tried on the model where that is cheap."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gruppo.errors import DataError
from gruppo.evaluation.statistics import Estimate, bootstrap_interval, pass_at_k
from gruppo.preflight.outputs import FEWEST, Outputs, draw
from gruppo.preflight.reasons import Cure, Level, Reason
from gruppo.preflight.signal import FIRST_STEPS, fit_rates, fit_rewards
from gruppo.preflight.subject import Budget, Subject
from gruppo.rewards.language import language_of
from gruppo.types import Problem

NO_SIGNAL = 0.02
"""Share of groups with a signal below which a run learns nothing to speak of."""
LITTLE_SIGNAL = 0.4
"""Below it most of the run's time goes into groups that teach nothing."""
ENOUGH_SIGNAL = 0.5
"""What a cure is looked for to reach."""
LEARNABLE = 0.8
"""pass@10 above it: nearly every problem is in reach (a rule of thumb)."""
GROUP_SIZES = (2, 4, 8, 16, 32, 64)
TEMPERATURES = (0.7, 1.0, 1.3)
TRIED = 16
"""Problems on which a change is tried."""
_CUT_OFF = 0.9
_MANY_CUT_OFF = 0.25
_SOME_CUT_OFF = 0.05
_SIGMAS = 3.0
"""By how many standard errors a change has to be better."""
_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class SignalFigures:
    """Pass rates, and how many groups carry a signal."""

    group_size: int
    share: Estimate
    """Of groups with a signal in the first ten steps, as they will be seen."""
    at: Mapping[int, Estimate]
    """The share by group size."""
    temperatures: Mapping[float, float]
    """The share at other temperatures, at a group size of `FEWEST`."""
    pass_at_1: Estimate
    pass_at_10: Estimate
    histogram: tuple[int, ...]
    """Problems by pass rate: none; up to a quarter, half, three quarters; below one; all."""
    never: float
    always: float
    """Shares of problems of which none, or all, of the completions passed."""


def signal_figures(subject: Subject, outputs: Outputs, temperatures: Mapping[float, float]) -> SignalFigures:
    """Pass rates and signal of the completions."""
    config, size = subject.config, subject.collector.group_size
    rewards = [group.rewards for group in outputs.groups]
    fit = fit_rewards(rewards)
    rates = np.array(outputs.passes) / outputs.samples
    if outputs.samples >= 10:
        ten = bootstrap_interval([pass_at_k(outputs.samples, c, 10) for c in outputs.passes])
    else:
        ten = fit_rates(outputs.passes, [outputs.samples] * len(outputs.groups)).pass_at(10)
    inside = [int(((rates > low) & (rates <= high) & (rates < 1)).sum()) for low, high in pairwise(_EDGES)]
    return SignalFigures(
        group_size=size,
        share=fit.predicted(size, FIRST_STEPS * config.prompts_per_step),
        at={g: fit.signal(g) for g in sorted({*GROUP_SIZES, size})},
        temperatures=temperatures,
        pass_at_1=bootstrap_interval(rates),
        pass_at_10=ten,
        histogram=(int((rates == 0).sum()), *inside, int((rates == 1).sum())),
        never=float((rates == 0).mean()),
        always=float((rates == 1).mean()),
    )


def other_temperatures(subject: Subject, budget: Budget) -> dict[float, float]:
    """The share of groups with a signal at other temperatures, on a few problems each, while there is time.

    Completions are drawn anew: importance weights of whole completions would leave one or two of them to speak for
    all, as a completion's weight is the product of its tokens'.
    """
    own = subject.collector.sampling.temperature
    found: dict[float, float] = {}
    for temperature in TEMPERATURES:
        if abs(temperature - own) < 0.05 or not budget.thorough or not budget.left(0.8):
            continue
        drawn = draw(subject, subject.first[:TRIED], samples=FEWEST, temperature=temperature, purpose="temperature")
        found[temperature] = drawn.signal_share
    return found


def reasons(
    subject: Subject, outputs: Outputs, signal: SignalFigures, budget: Budget, *, explained: bool
) -> list[Reason]:
    """What the completions have against the run.

    Args:
        subject: the run.
        outputs: its first completions.
        signal: what they come to.
        budget: of time, for trying changes.
        explained: something else stops the run, such as its rewards: a want of signal needs no further cause.
    """
    silent = effective_share(subject, signal.share.value) < NO_SIGNAL
    found = [
        *_truncated(subject, outputs, budget),
        *_alike(subject, outputs, silent),
        *_other_prompt(subject, outputs, silent, budget),
    ]
    if not explained and not any(reason.level == "stop" for reason in found):
        found += _signal(subject, outputs, signal)
    return found + list(_language(subject, outputs))


def effective_share(subject: Subject, share: float) -> float:
    """The share of groups with a signal among those trained on: dynamic sampling replaces some of the others."""
    return min(1.0, share * subject.config.max_sampling_factor)


def _truncated(subject: Subject, outputs: Outputs, budget: Budget) -> Iterator[Reason]:
    share = outputs.truncated_share
    if share < _SOME_CUT_OFF:
        return
    level: Level = "slow" if share >= _MANY_CUT_OFF else "note"
    if share >= _CUT_OFF and outputs.pass_rate < NO_SIGNAL:
        level = "stop"
    evidence = [f"{outputs.truncated_passes:.0%} of those that are cut off pass"]
    cures: list[Cure] = []
    enough = outputs.covering(0.99)
    room = _room(subject, outputs)
    if enough is None and room > outputs.limit and budget.left():
        few = [group.problem for group in outputs.groups[:8]]
        roomy = draw(subject, few, samples=FEWEST, limit=room, purpose="room")
        enough = roomy.covering(0.99) or roomy.covering(0.9)
        evidence.append(f"with {room} tokens {roomy.truncated_share:.0%} are, and {roomy.pass_rate:.0%} of all pass")
    if enough is not None and enough > outputs.limit:
        cures.append(Cure("Give them room:", {"max_completion_length": min(room, 8 * math.ceil(enough / 8))}))
    cures.append(
        Cure(
            "Teach the model to come to an end by SFT, or name what ends an answer under `stop`; is its template right?"
        )
    )
    what = f"{share:.0%} of the completions are cut off at max_completion_length {outputs.limit}"
    yield Reason("truncated", level, what, tuple(evidence), tuple(cures))


def _room(subject: Subject, outputs: Outputs) -> int:
    """Tokens that a completion may have at most, eight times the limit at most."""
    most = 8 * outputs.limit
    context = subject.loaded.context_length
    longest = max(len(group.problem.prompt_ids) for group in outputs.groups)
    return most if context is None else min(most, context - longest)


def _alike(subject: Subject, outputs: Outputs, silent: bool) -> Iterator[Reason]:
    """Groups whose completions are the same text, by the way they are drawn."""
    config = subject.config
    share = outputs.alike_share
    changes: dict[str, Any] = {}
    if outputs.temperature < 0.7:
        changes["temperature"] = 1.0
    if 0 < config.top_k < 5:
        changes["top_k"] = 0
    if config.top_p < 0.5:
        changes["top_p"] = 1.0
    if share <= 0.5 or not changes:
        return
    told = ", ".join(f"{name} {getattr(config, name):g}" for name in changes)
    yield Reason(
        "temperature",
        "stop" if silent else "slow",
        f"in {share:.0%} of the groups every completion is the same text ({told})",
        ("equal completions have equal rewards, and no signal",),
        (Cure("Draw from the model's own distribution:", changes),),
    )


def _other_prompt(subject: Subject, outputs: Outputs, silent: bool, budget: Budget) -> Iterator[Reason]:
    """Columns that the prompt leaves out, tried in it."""
    for column, prompt in subject.unused[:2]:
        level: Level = "note"
        evidence: tuple[str, ...] = ()
        if budget.left():
            better = compare(subject, {"prompt": prompt}, outputs)
            level = ("stop" if silent else "slow") if better.clearly else "note"
            evidence = (f"with it {better.other:.0%} of completions pass, without it {better.own:.0%}",)
        what = f"the prompt leaves out the column '{column}', which holds text"
        yield Reason("unused_column", level, what, evidence, (Cure("If the question needs it:", {"prompt": prompt}),))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Pass rates on the same problems, as the config is and with a change."""

    own: float
    other: float
    completions: int
    """Of each."""

    @property
    def clearly(self) -> bool:
        """Whether the change is better beyond chance."""
        both = (self.own + self.other) / 2
        error = math.sqrt(max(1e-12, both * (1 - both)) * 2 / self.completions)
        return self.other - self.own > max(0.02, _SIGMAS * error)


def compare(subject: Subject, changes: Mapping[str, Any], outputs: Outputs) -> Comparison:
    """Draw for some of the same problems with a change of options."""
    few = [group.problem for group in outputs.groups[:TRIED]]
    try:
        other = subject.vary(changes)
    except DataError:  # some row has nothing in the column
        return Comparison(outputs.rate_of(few), 0.0, 1)
    ids = {problem.id for problem in few}
    again: list[Problem] = [problem for problem in other.first if problem.id in ids]
    if not again:
        return Comparison(outputs.rate_of(few), 0.0, 1)
    drawn = draw(other, again, samples=FEWEST, purpose="change")
    return Comparison(outputs.rate_of(again), drawn.pass_rate, FEWEST * len(again))


def _signal(subject: Subject, outputs: Outputs, signal: SignalFigures) -> Iterator[Reason]:
    share = effective_share(subject, signal.share.value)
    if share >= LITTLE_SIGNAL:
        return
    level: Level = "stop" if share < NO_SIGNAL else "slow"
    rate = outputs.pass_rate
    kind = "too_easy" if rate > 0.5 else "too_hard" if signal.never > 0.5 else "few_signals"
    silent = 1.0 - signal.share.value
    least, most = 1.0 - signal.share.high, 1.0 - signal.share.low
    what = (
        f"{silent:.0%} of groups carry no signal [{least:.0%}, {most:.0%}]: of {len(outputs.groups)} problems "
        f"{signal.never:.0%} were never solved, {signal.always:.0%} always"
    )
    evidence = (f"pass@1 {signal.pass_at_1}, pass@10 {signal.pass_at_10}, {outputs.samples} completions of each",)
    yield Reason(kind, level, what, evidence, tuple(_signal_cures(subject, outputs, signal, kind)))


def _signal_cures(subject: Subject, outputs: Outputs, signal: SignalFigures, kind: str) -> Iterator[Cure]:
    yield from _by_difficulty(subject, outputs, hard=kind != "too_easy")
    if kind == "too_easy":
        yield Cure("Take harder problems, or stop here: the model can do these.")
        return
    yield from _by_group_size(signal)
    if subject.config.max_sampling_factor < 2 and signal.share.value >= NO_SIGNAL:
        factor = float(min(4, max(2, math.ceil(1 / max(signal.share.value, 0.25)))))
        yield Cure("Replace groups without signal as they come:", {"max_sampling_factor": factor})
    yield Cure("Start with SFT on worked answers (an `sft:` section), or take easier problems.")


def _by_difficulty(subject: Subject, outputs: Outputs, *, hard: bool) -> Iterator[Cure]:
    """The widest bound on difficulty within which enough groups carry a signal."""
    levels = subject.difficulties
    for bound in reversed(levels[:-1]) if hard else levels[1:]:
        inside = [
            g for g in outputs.groups if g.problem.difficulty is not None and _within(g.problem.difficulty, bound, hard)
        ]
        if len(inside) < 4:
            continue
        share = fit_rewards([group.rewards for group in inside]).signal(subject.collector.group_size).value
        if share >= ENOUGH_SIGNAL:
            name = "max_difficulty" if hard else "min_difficulty"
            value = int(bound) if bound == int(bound) else bound
            yield Cure(f"Keep problems of which about {share:.0%} of groups carry one:", {name: value})
            return


def _within(difficulty: float, bound: float, hard: bool) -> bool:
    return difficulty <= bound if hard else difficulty >= bound


def _by_group_size(signal: SignalFigures) -> Iterator[Cure]:
    """The smallest larger group that has enough of a signal; else the largest, where it has half as much again."""
    larger = [size for size in signal.at if signal.group_size < size <= GROUP_SIZES[-1]]
    enough = [size for size in larger if signal.at[size].value >= ENOUGH_SIGNAL]
    now = signal.at[signal.group_size].value
    size = (
        enough[0] if enough else larger[-1] if larger and signal.at[larger[-1]].value >= 1.5 * max(now, 0.01) else None
    )
    if size is not None:
        told = f"Take larger groups, of which about {signal.at[size].value:.0%} would carry one:"
        yield Cure(told, {"group_size": size})


def _language(subject: Subject, outputs: Outputs) -> Iterator[Reason]:
    """Completions in another language than the prompts."""
    asked = language_of(" ".join(group.problem.prompt for group in outputs.groups))
    written = next(iter(outputs.languages.items()), None)
    if asked is None or written is None or "latin" in (asked, written[0]) or written[0] == asked or written[1] <= 0.5:
        return
    what = f"{written[1]:.0%} of the completions are in the language '{written[0]}', the prompts in '{asked}'"
    yield Reason(
        "language", "note", what, (), (Cure("Ask for the language in the prompt, or add the reward `language`."),)
    )
