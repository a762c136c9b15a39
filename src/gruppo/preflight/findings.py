"""What a trial of a rubric has shown, as findings: what is wrong, by which evidence, and what mends it."""

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gruppo.config.rewards import PUNISHING
from gruppo.data.gold import default_reward
from gruppo.monitor.text import one_line
from gruppo.preflight.cures import CURES, GOLD_CURES
from gruppo.preflight.probes import FORM, GOLD, SHARES
from gruppo.preflight.trial import FailedCall, Tried
from gruppo.rewards.binding import bind
from gruppo.rewards.dispatch import SLOW_SECONDS
from gruppo.rewards.outcomes import Failure
from gruppo.rewards.qa import qa_levels_warning, qa_reward
from gruppo.rewards.rubric import Reward, Rubric
from gruppo.types import PASS_SHARE, Problem

GOLD_SHARE = 0.02
"""Share of problems whose own gold may fail before that has to be mended."""
LATE_SHARE = 0.01
"""Share of a reward's calls that may take too long before that has to be mended: they count 0 in a run."""
_OUT_EARNED_SHARE = 0.05
_SHOWN = 5
_WIDTH = 160
_QUOTED = 80


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to mend, or to know."""

    kind: str
    """A word to tell it by: gold, form, hack, pay, failures, disagreement, examples, scale, gate, rows, slow..."""
    mend: bool
    """Whether it has to be mended before a run."""
    what: str
    evidence: tuple[str, ...] = ()
    """Lines, each naming a row."""
    cure: str = ""
    rows: tuple[str, ...] = ()
    """All problems that it is about."""


@dataclass(frozen=True)
class Evidence:
    """What the findings are made of."""

    rubric: Rubric
    problems: Sequence[Problem]
    """All of the data."""
    tried: Sequence[Tried]
    failures: Sequence[FailedCall]
    seconds: dict[str, list[float]]

    @functools.cached_property
    def golds(self) -> dict[str, Tried]:
        """The trials of golds, by problem."""
        return {tried.problem.id: tried for tried in self.tried if tried.probe.name == GOLD}

    @functools.cached_property
    def by_probe(self) -> dict[str, list[Tried]]:
        """The trials of each probe that has no gold in it, or not all."""
        found: dict[str, list[Tried]] = defaultdict(list)
        for tried in self.tried:
            found[tried.probe.name].append(tried)
        return dict(found)


def findings(evidence: Evidence) -> list[Finding]:
    """All that the evidence shows."""
    scale = list(_scale(evidence))
    return [
        *scale,
        *_gates(evidence),
        *_rows(evidence),
        *(() if any(finding.kind == "scale" for finding in scale) else _gold(evidence)),
        *_hacks(evidence),
        *_pay(evidence),
        *_failures(evidence),
        *_without_gold(evidence),
        *_levels(evidence.rubric),
        *_slow(evidence),
    ]


def _scale(evidence: Evidence) -> Iterator[Finding]:
    """A reward that decides, or opens a gate, and whose full scale no gold reaches."""
    rewards = evidence.rubric.rewards
    gates = {reward.gate for reward in rewards}
    for index, reward in enumerate(rewards):
        outcomes = [tried.outcomes[index] for tried in evidence.golds.values()]
        values = [float(value) for value in outcomes if value is not None and not isinstance(value, Failure)]
        best = max(values, default=0.0)
        if (reward.name != evidence.rubric.success and reward.name not in gates) or best <= 0:
            continue
        if best < PASS_SHARE * reward.full_scale and len(set(values)) == 1:
            yield Finding(
                "scale",
                True,
                f"reward '{reward.name}' is {best:g} for each of the {len(values)} golds tried, and its full_scale "
                f"is {reward.full_scale:g}: nothing passes, for a pass is {PASS_SHARE:g} of it",
                cure=f"set `full_scale: {best:g}` on it, or have the function give {reward.full_scale:g}.",
            )


def _gates(evidence: Evidence) -> Iterator[Finding]:
    """Rewards that never count because their gate never opens."""
    place = {reward.name: index for index, reward in enumerate(evidence.rubric.rewards)}
    for reward in evidence.rubric.rewards:
        if reward.gate is None:
            continue
        gate = evidence.rubric.rewards[place[reward.gate]]
        if not evidence.golds and gate.name not in PUNISHING:
            continue
        if not any(_opens(gate, tried, place[gate.name]) for tried in evidence.tried):
            yield Finding(
                "gate",
                True,
                f"reward '{reward.name}' never counts: its gate '{gate.name}' passes on none of the "
                f"{len(evidence.tried)} completions tried, golds among them",
                cure=f"gate it by a reward that a right completion passes, or set the full_scale of '{gate.name}'.",
            )


def _opens(gate: Reward, tried: Tried, index: int) -> bool:
    value = tried.outcomes[index]
    return value is not None and not isinstance(value, Failure) and value >= PASS_SHARE * gate.full_scale


def _rows(evidence: Evidence) -> Iterator[Finding]:
    """Problems that no completion can pass, as nothing that decides applies to them."""
    rubric = evidence.rubric
    bound = {reward.name: bind(reward.name, reward.function) for reward in rubric.rewards}
    deciders = [(problem, rubric.decider(problem)) for problem in evidence.problems]
    lost = [problem.id for problem, name in deciders if name is None or not bound[name].applies(problem)]
    count = len(evidence.problems)
    if lost:
        yield Finding(
            "rows",
            len(lost) > GOLD_SHARE * count,
            f"the success reward '{rubric.success}' does not apply to {len(lost)} of {count} problems, which "
            "have no answer or tests for it: no completion of theirs ever passes",
            (_some(lost),),
            "fill in the answer or the tests, drop the rows, or add a reward that needs neither for their data set.",
            tuple(lost),
        )
    silent = [tried.problem.id for tried in evidence.golds.values() if not tried.decided]
    silent = [problem for problem in silent if problem not in set(lost)]
    if silent:
        yield Finding(
            "rows",
            len(silent) > GOLD_SHARE * len(evidence.golds),
            f"the reward that decides returns None (does not apply) for the gold of {len(silent)} of "
            f"{len(evidence.golds)} problems: it does not pass",
            (_some(silent),),
            "return a number for every problem that the reward is for; keep others from it with `data`.",
            tuple(silent),
        )


def _gold(evidence: Evidence) -> Iterator[Finding]:
    """Golds that do not pass: by their form alone, or at all."""
    failed = [tried for tried in evidence.golds.values() if tried.decided and not tried.score.passed]
    passing: dict[str, list[str]] = defaultdict(list)
    for tried in evidence.tried:
        if tried.probe.name.startswith(FORM) and tried.score.passed:
            passing[tried.problem.id].append(tried.probe.name.removeprefix(FORM))
    count = len(evidence.golds)
    for by_form in (False, True):
        some = [tried for tried in failed if (tried.problem.id in passing) == by_form]
        if not some:
            continue
        kinds = {default_reward([tried.problem]) for tried in some}
        cure = GOLD_CURES["code" if kinds == {"code"} else "any"]
        if by_form:
            forms = sorted(set.intersection(*(set(passing[tried.problem.id]) for tried in some)))
            named = ", ".join(f"`{form}`" for form in forms or sorted(set(passing[some[0].problem.id])))
            cure = GOLD_CURES["form"].format(forms=named)
        yield Finding(
            "form" if by_form else "gold",
            len(some) > GOLD_SHARE * count,
            f"the data's own gold does not pass on {len(some)} of {count} problems"
            + (", for its form alone" if by_form else ""),
            tuple(f"{tried.problem.id}: {_why(evidence.rubric, tried)}" for tried in some[:_SHOWN]),
            cure,
            tuple(tried.problem.id for tried in some),
        )


def _hacks(evidence: Evidence) -> Iterator[Finding]:
    """Completions that must not pass, and do."""
    for probe, tried in evidence.by_probe.items():
        if probe == GOLD or probe.startswith(FORM):
            continue
        passed = [one for one in tried if one.score.passed]
        if not passed:
            continue
        share = SHARES.get(probe, 0.0)
        allowed = f" (up to {share:.0%} may be by right)" if share else ""
        yield Finding(
            "hack",
            len(passed) > share * len(tried),
            f"'{probe}' passes on {len(passed)} of {len(tried)} problems{allowed}",
            tuple(
                f"{one.problem.id}: {_quoted(one.probe.text)} passes: {_why(evidence.rubric, one)}"
                for one in passed[:3]
            ),
            CURES[probe],
            tuple(one.problem.id for one in passed),
        )


def _pay(evidence: Evidence) -> Iterator[Finding]:
    """Completions that fail, and earn no less than the gold all the same."""
    golds = {name: tried for name, tried in evidence.golds.items() if tried.score.passed}
    for probe, tried in evidence.by_probe.items():
        if probe == GOLD or probe.startswith(FORM):
            continue
        beside = [one for one in tried if one.problem.id in golds and not one.score.passed]
        paid = [one for one in beside if one.score.reward >= golds[one.problem.id].score.reward]
        if not paid or len(paid) <= _OUT_EARNED_SHARE * len(beside):
            continue
        first = paid[0]
        gold = golds[first.problem.id].score
        yield Finding(
            "pay",
            True,
            f"'{probe}' does not pass, and earns as much as the gold on {len(paid)} of {len(beside)} problems",
            (f"{first.problem.id}: {_sum(first)}; the gold {gold.reward:.4g} ({_parts(gold.parts)})",),
            "give the success reward more weight than the others have together, or gate them by it.",
            tuple(one.problem.id for one in paid),
        )


def _failures(evidence: Evidence) -> Iterator[Finding]:
    """Calls that gave no reward, by reward and kind."""
    groups: dict[tuple[str, str], list[FailedCall]] = defaultdict(list)
    for failure in evidence.failures:
        groups[failure.reward, failure.kind].append(failure)
    stopping = {reward.name for reward in evidence.rubric.rewards if reward.on_error == "stop"}
    for (reward, kind), failed in groups.items():
        calls = len(evidence.seconds[reward])
        rare = kind == "timeout" and len(failed) <= LATE_SHARE * calls and reward not in stopping
        yield Finding(
            "failures",
            not rare,
            f"reward '{reward}': {len(failed)} of {calls} calls {_FAILED[kind]}",
            tuple(f"{one_line(one.text, _WIDTH)}; completion {_quoted(one.completion)}" for one in failed[:3]),
            CURES[kind],
            tuple(dict.fromkeys(one.problem for one in failed)),
        )


_FAILED = {
    "raised": "raise an error",
    "returned": "return what is no reward",
    "timeout": "take longer than they may",
    "crashed": "end their process",
}


def _without_gold(evidence: Evidence) -> Iterator[Finding]:
    tried = list(dict.fromkeys(one.problem.id for one in evidence.tried))
    missing = [name for name in tried if name not in evidence.golds]
    if missing:
        yield Finding(
            "no gold",
            False,
            f"{len(missing)} of {len(tried)} problems have no gold completion: that a right one passes is not shown "
            "for them",
            (_some(missing),),
            "add an answer, or for code a column `solution`; or give right completions with --examples.",
            tuple(missing),
        )


def _levels(rubric: Rubric) -> Iterator[Finding]:
    for reward in rubric.rewards:
        if option(reward, qa_reward, "mode") != "levels":
            continue
        warning = qa_levels_warning(option(reward, qa_reward, "levels"))
        if warning is not None:
            yield Finding("levels", False, f"reward '{reward.name}': {warning}")


def _slow(evidence: Evidence) -> Iterator[Finding]:
    for name, seconds in evidence.seconds.items():
        mean = sum(seconds) / len(seconds) if seconds else 0.0
        if mean > SLOW_SECONDS:
            yield Finding(
                "slow",
                False,
                f"reward '{name}' takes {mean:.1f} s a completion: it may hold up the run",
                cure="make it quicker, or put a cheaper check in front of it.",
            )


def option(reward: Reward, function: object, name: str) -> Any:
    """An option that a built-in reward is bound with; None where the reward is another, or says nothing of it."""
    bound = reward.function
    if isinstance(bound, functools.partial) and bound.func is function:
        return bound.keywords.get(name)
    return None


def _why(rubric: Rubric, tried: Tried) -> str:
    """What the deciding reward says of a completion."""
    name = rubric.decider(tried.problem) or rubric.success
    value = tried.score.parts[name]
    plain = f"{name} is {'None' if value is None else f'{value:g}'}"
    said = tried.score.errors.get(name) or tried.score.reasons.get(name) or plain
    return one_line(said, _WIDTH)


def _sum(tried: Tried) -> str:
    return f"{_quoted(tried.probe.text)} earns {tried.score.reward:.4g} ({_parts(tried.score.parts)})"


def _parts(parts: object) -> str:
    assert isinstance(parts, dict)
    return ", ".join(f"{name} {value:.4g}" for name, value in parts.items() if value is not None and "/" not in name)


def _quoted(text: str) -> str:
    """A completion, its middle left out where it is long: what matters stands at the end, as often as not."""
    if not text.strip():
        return "an empty completion"
    if len(text) <= _QUOTED:
        return repr(one_line(text, _QUOTED))
    head, tail = one_line(text[:_QUOTED], _QUOTED // 2), one_line(text[-_QUOTED // 2 :], _QUOTED)
    return repr(f"{head.removesuffix('…').rstrip()} … {tail.lstrip()}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
