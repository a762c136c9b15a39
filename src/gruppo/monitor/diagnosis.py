"""What is wrong with a run, in words: a table of rules over its metrics, each with symptom, cause and cure.

A rule fires at the step where its symptom appears and is silent until the symptom has stayed away for ten steps.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Metrics = Mapping[str, float | None]
History = Sequence[Metrics]
"""Steps of a run in order, the newest last."""

START = 5
"""Steps at the start of a run that later ones are measured against."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that fired: where, and on what evidence."""

    rule: str
    step: int
    symptom: str
    cause: str
    cure: str
    evidence: str
    """The figures that show it."""

    def __str__(self) -> str:
        return f"step {self.step}: {self.symptom} ({self.evidence}). {self.cause} Cure: {self.cure}"

    def to_json(self) -> dict[str, Any]:
        """As it stands in events.jsonl, in an event of kind `finding`."""
        return asdict(self)

    @classmethod
    def from_json(cls, event: Mapping[str, Any]) -> "Finding":
        """A finding from its event. Raises KeyError where the event is none."""
        texts = (str(event[name]) for name in ("symptom", "cause", "cure", "evidence"))
        return cls(str(event["rule"]), int(event["step"]), *texts)


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that goes wrong with runs."""

    name: str
    symptom: str
    shows: Callable[[History], str | None]
    """The evidence where the newest steps show the symptom, else None."""
    cause: str
    cure: str


def _last(history: History, name: str, count: int) -> list[float] | None:
    """The finite values of the last `count` steps; None where fewer steps or values are there."""
    values = [step.get(name) for step in history[-count:]]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return finite if len(finite) == count else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _above(name: str, limit: float, count: int, unit: str = "") -> Callable[[History], str | None]:
    """A symptom: the metric above a limit in each of the last `count` steps."""

    def shows(history: History) -> str | None:
        values = _last(history, name, count)
        if values is None or min(values) <= limit:
            return None
        span = "this step" if count == 1 else f"mean of {count} steps"
        return f"{name} {_mean(values):.3g}{unit}, {span}; healthy is at most {limit:g}"

    return shows


def _no_signal(passing: bool) -> Callable[[History], str | None]:
    """Most groups without signal for five steps, the completions mostly passing, or mostly failing."""

    def shows(history: History) -> str | None:
        shares, passes = _last(history, "no_signal_share", 5), _last(history, "pass_at_1", 5)
        if shares is None or passes is None or min(shares) <= 0.8 or _constant(history) is not None:
            return None
        if (_mean(passes) > 0.5) != passing:
            return None
        return f"{_mean(shares):.0%} of the groups have equal rewards, pass@1 {_mean(passes):.3f}, mean of 5 steps"

    return shows


def _constant(history: History) -> str | None:
    """Every completion of five steps with one and the same reward."""
    spreads, means = _last(history, "reward_std", 5), _last(history, "reward_mean", 5)
    if spreads is None or means is None or max(spreads) > 0 or max(means) > min(means):
        return None
    return f"the reward of every completion of the last 5 steps is {means[-1]:g}"


def _collapse(history: History) -> str | None:
    """Entropy below a tenth of where it began, while there is still something to learn."""
    begin = [step.get("entropy") for step in history[:START]]
    start = [value for value in begin if value is not None and math.isfinite(value)]
    now, passes = _last(history, "entropy", 5), _last(history, "pass_at_1", 5)
    if len(history) < 2 * START or not start or now is None or passes is None or _mean(passes) > 0.7:
        return None
    if _mean(now) >= 0.1 * _mean(start):
        return None
    return f"entropy {_mean(now):.3g} nats/token, {_mean(start):.3g} at the start, pass@1 {_mean(passes):.3f}"


def _not_finite(history: History) -> str | None:
    """A loss or gradient that is NaN or infinite; on disk such a value is null."""
    step = history[-1]
    for name in ("loss", "grad_norm"):
        value = step.get(name)
        if value is not None and not math.isfinite(value):
            return f"{name} is {value}"
    silent = step.get("no_signal_share")
    if step.get("optimizer_step") == 0 and step.get("grad_norm") is None and silent is not None and silent < 1:
        return "no update was made though groups had signal"
    return None


RULES: tuple[Rule, ...] = (
    Rule(
        "all_failing",
        "Nearly all groups fail throughout, so there is nothing to learn from",
        _no_signal(passing=False),
        "The problems are too hard for this model, or correct completions are not recognised.",
        "Read a few completions in rollouts/; take easier problems, run SFT first, raise group_size, or mend the "
        "reward.",
    ),
    Rule(
        "all_passing",
        "Nearly all groups pass throughout, so there is nothing left to learn",
        _no_signal(passing=True),
        "The problems are too easy for this model by now.",
        "Take harder problems, or stop here: the model has learnt these.",
    ),
    Rule(
        "constant_reward",
        "Every completion gets the same reward",
        _constant,
        "The reward does not tell completions apart: often the answer's form is never found.",
        "Score a right and a wrong completion by hand with the reward; check `answer` and what the prompt asks for.",
    ),
    Rule(
        "truncated",
        "Most completions are cut off before they end",
        _above("truncated_share", 0.5, 3),
        "max_completion_length is too short for what the model writes, or it never learnt to stop.",
        "Raise max_completion_length; check that the chat template's end of turn is a stop token, or set `stop`.",
    ),
    Rule(
        "clipped",
        "The clip range cuts off many tokens",
        _above("clipped_share", 0.2, 3),
        "The policy moves far within one batch: the rate or updates_per_batch is too high.",
        "Lower learning_rate or updates_per_batch.",
    ),
    Rule(
        "kl",
        "The policy is far from the reference policy",
        _above("kl_to_reference", 0.5, 3, " nats/token"),
        "The penalty is too weak for the rate, or the reward pays for text unlike the model's own.",
        "Raise beta or lower learning_rate; read completions for text that only pleases the reward.",
    ),
    Rule(
        "entropy_collapse",
        "The policy has become nearly deterministic before it is good",
        _collapse,
        "It settled on one way of answering; samples of a group are alike and carry no signal.",
        "Lower learning_rate, raise temperature or epsilon_high, or go back to an earlier checkpoint.",
    ),
    Rule(
        "not_finite",
        "The loss or the gradient is not finite",
        _not_finite,
        "An overflow, often from too high a rate or from damaged weights.",
        "Lower learning_rate and go on from the last checkpoint; in bfloat16 try precision: float32.",
    ),
)
"""The table, but for the rule whose limit depends on the precision."""


def rules(precision: str = "float32") -> tuple[Rule, ...]:
    """The table. Trainer and sampler may differ by 0.01 nats in float32, by 0.05 in other precisions, and by 0.5 where
    each has its own (mixed), which importance weights correct."""
    limit = {"float32": 0.01, "mixed": 0.5}.get(precision, 0.05)
    return (
        *RULES,
        Rule(
            "sampler_difference",
            "Trainer and sampler disagree on the log-probs of the same tokens",
            _above("sampler_logprob_difference_max", limit, 1, " nats"),
            "They do not hold the same weights, or compute in different precision; the policy ratio is biased.",
            "Use one precision for both; if they already do, report it with config.yaml: it is a bug of ours.",
        ),
    )


CLEARED = 10
"""Steps that a symptom must stay away before it is reported again."""


class Diagnosis:
    """The rules, told one step at a time."""

    def __init__(self, precision: str = "float32") -> None:
        self._rules = rules(precision)
        self._history: list[Metrics] = []
        self._seen: dict[str, int] = {}

    def observe(self, metrics: Metrics) -> list[Finding]:
        """Take the next step's metrics; gives what has just gone wrong, not what was wrong already."""
        self._history.append(metrics)
        found: list[Finding] = []
        for rule in self._rules:
            evidence = rule.shows(self._history)
            if evidence is None:
                continue
            last = self._seen.get(rule.name)
            self._seen[rule.name] = now = len(self._history)
            if last is None or now - last > CLEARED:
                step = int(metrics["step"] or 0)
                found.append(Finding(rule.name, step, rule.symptom, rule.cause, rule.cure, evidence))
        return found


def diagnose(history: History, precision: str = "float32") -> list[Finding]:
    """All findings of a run's metrics, in the order they appeared."""
    diagnosis = Diagnosis(precision)
    return [finding for metrics in history for finding in diagnosis.observe(metrics)]
