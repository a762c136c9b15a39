"""The check before a run: can it learn? Everything that the run will load is looked at, measured, and judged."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from gruppo.errors import RewardError
from gruppo.planner.measured import Measured
from gruppo.preflight import of_data, of_outputs, of_update
from gruppo.preflight.numerics import EngineCheck, UpdateCheck, compare_engine, try_update
from gruppo.preflight.of_data import PromptFigures
from gruppo.preflight.of_outputs import SignalFigures
from gruppo.preflight.outputs import Outputs, expected_seconds, sample
from gruppo.preflight.reasons import Cure, Reason, Verdict, in_order, verdict_of
from gruppo.preflight.reward_test import RewardTest, try_rubric
from gruppo.preflight.subject import Budget, Subject, untouched_randomness
from gruppo.training.losses import LossSettings

_REWARD_SECONDS = 0.08
"""Share of the budget for each of the two runs of the rewards' test."""


@dataclass(frozen=True)
class Check:
    """What a check has found."""

    reasons: tuple[Reason, ...]
    """The gravest first."""
    seconds: float
    problems: int = 0
    """In the training data."""
    prompts: PromptFigures | None = None
    rewards: RewardTest | None = None
    outputs: Outputs | None = None
    """None: nothing could be sampled."""
    signal: SignalFigures | None = None
    """None: nothing was sampled, or SFT comes first."""
    engine: EngineCheck | None = None
    update: UpdateCheck | None = None
    measured: Measured | None = None
    """For the forecast of time and memory."""
    step_seconds: float | None = None
    """What a step will take, about."""
    before_sft: bool = False
    demonstrations: tuple[int, ...] = ()
    """Lengths of the demonstrations' completions, tokens."""

    @property
    def verdict(self) -> Verdict:
        """What it comes to."""
        return verdict_of(self.reasons)

    def to_json(self) -> dict[str, Any]:
        """As plain data; `gruppo plan --measured` reads it."""
        outputs, rewards = self.outputs, self.rewards
        return {
            "verdict": self.verdict,
            "seconds": self.seconds,
            "before_sft": self.before_sft,
            "reasons": [
                {**asdict(reason), "config": [line for cure in reason.cures[:1] for line in cure.lines]}
                for reason in self.reasons
            ],
            "prompts": None if self.prompts is None else asdict(self.prompts),
            "rewards": None
            if rewards is None
            else {"fine": rewards.fine, "probes": [asdict(p) for p in rewards.probes]},
            "outputs": None if outputs is None else _outputs_json(outputs),
            "signal": None if self.signal is None else asdict(self.signal),
            "engine": None if self.engine is None else asdict(self.engine),
            "update": None if self.update is None else asdict(self.update),
            "step_seconds": self.step_seconds,
            **({} if self.measured is None else self.measured.to_json()),
        }


def _outputs_json(outputs: Outputs) -> dict[str, Any]:
    return {
        "problems": len(outputs.groups),
        "samples": outputs.samples,
        "temperature": outputs.temperature,
        "limit": outputs.limit,
        "truncated_share": outputs.truncated_share,
        "mean_length": float(outputs.lengths.mean()),
        "length_90": outputs.covering(0.9),
        "length_99": outputs.covering(0.99),
        "formats": outputs.formats,
        "languages": outputs.languages,
        "passes": outputs.passes,
    }


def check(
    subject: Subject, budget: Budget, loss: LossSettings, tell: Callable[[str], None] = lambda text: None
) -> Check:
    """Look at a run before its first step. Its weights and all random states are the same afterwards, bit for bit.

    Args:
        subject: the run.
        budget: of time. Everything is looked at, however little there is of it; only on fewer problems.
        loss: as of its first step.
        tell: is told what is being done.
    """
    budget.begin()
    with untouched_randomness():
        return _Checking(subject, budget, loss, tell).run()


class _Checking:
    """One check, part by part."""

    def __init__(self, subject: Subject, budget: Budget, loss: LossSettings, tell: Callable[[str], None]) -> None:
        self._subject = subject
        self._budget = budget
        self._loss = loss
        self._tell = tell

    def run(self) -> Check:
        subject, budget = self._subject, self._budget
        prompts = of_data.figures(subject)
        reasons = list(of_data.reasons(subject, prompts))
        found = Check((), 0.0, len(subject.problems), prompts, before_sft=subject.before_sft)
        found = replace(found, demonstrations=subject.demonstrations)
        if not subject.first:
            return self._done(found, reasons)
        self._tell("trying the rewards on known answers")
        test = try_rubric(
            subject.rubric, subject.first, most=min(32, budget.problems), seconds=_REWARD_SECONDS * budget.seconds
        )
        found = replace(found, rewards=test)
        self._tell("sampling from the starting model")
        try:
            outputs = sample(subject, budget, few=subject.before_sft)
        except RewardError as error:
            broken = Reason("reward_failures", "stop", str(error), (), (Cure("Mend the reward."),))
            return self._done(found, [*reasons, broken, *of_data.reward_reasons(subject, test, passing=None)])
        passing = None if subject.before_sft else outputs.pass_rate
        reasons += self._of_rewards(test, outputs, passing)
        found = replace(found, outputs=outputs)
        if subject.before_sft:
            reasons += _of_demonstrations(subject)
        else:
            signal = of_outputs.signal_figures(subject, outputs, of_outputs.other_temperatures(subject, budget))
            reasons = self._with_template(reasons, outputs)
            explained = any(reason.level == "stop" for reason in reasons)
            reasons += of_outputs.reasons(subject, outputs, signal, budget, explained=explained)
            found = replace(found, signal=signal)
        self._tell("comparing engine and trainer, trying an update")
        return self._done(*self._numbers(found, reasons, outputs))

    def _done(self, found: Check, reasons: Sequence[Reason]) -> Check:
        return replace(found, reasons=tuple(in_order(reasons)), seconds=self._budget.spent)

    def _of_rewards(self, test: RewardTest, outputs: Outputs, passing: float | None) -> list[Reason]:
        """The rewards' own test, and the reward that would do better."""
        subject = self._subject
        reasons = list(of_data.reward_reasons(subject, test, passing=passing))
        grave = any(reason.level != "note" for reason in reasons)
        unpaid = passing is not None and passing < of_outputs.NO_SIGNAL
        name = of_data.fallback_reward(subject) if grave or unpaid else None
        if name is None:
            return reasons
        other = subject.vary({"rewards": [name], "success": None})
        tried = try_rubric(other.rubric, subject.first, most=8, seconds=_REWARD_SECONDS * self._budget.seconds)
        if not of_data.separates(tried):
            return reasons
        would = of_data.passes_of(other, [(g.problem, [r.text for r in g.rollouts]) for g in outputs.groups])
        cure = Cure(f"The reward `{name}` tells them apart on this data:", {"rewards": [name], "success": None})
        cured = [replace(r, cures=(cure, *r.cures)) if r.level != "note" else r for r in reasons]
        if unpaid and would >= max(of_outputs.NO_SIGNAL, 2 * (passing or 0.0)):
            return [_parser(subject, would, name, cure, passing or 0.0), *cured]
        return cured

    def _with_template(self, reasons: list[Reason], outputs: Outputs) -> list[Reason]:
        """Other prompt templates, tried where no completion passes or the one in use looks wrong."""
        suspect = any(reason.kind == "template" for reason in reasons)
        if not suspect and outputs.pass_rate >= of_outputs.NO_SIGNAL:
            return reasons
        found = best_template(self._subject, outputs, self._budget)
        if found is None:
            return reasons
        template, better = found
        given = "the chat template" if self._subject.config.prompt_template is None else "prompt_template"
        before = next((reason for reason in reasons if reason.kind == "template"), None)
        reason = Reason(
            "template",
            "stop" if outputs.pass_rate < of_outputs.NO_SIGNAL else "slow",
            before.what if before else f"{given} is not what this model was trained with",
            (f"with another {better.other:.0%} of completions pass, as it is {better.own:.0%}",),
            (Cure("Take the one that it knows:", {"prompt_template": template}),),
        )
        return [reason, *(other for other in reasons if other.kind != "template")]

    def _numbers(self, found: Check, reasons: list[Reason], outputs: Outputs) -> tuple[Check, list[Reason]]:
        """Engine and update, judged; and what a forecast may take from them."""
        subject, budget = self._subject, self._budget
        engine = compare_engine(subject, outputs)
        update = try_update(subject, outputs, self._loss, budget)
        reasons += [*of_update.of_engine(subject, engine), *of_update.of_update(subject, update)]
        measured = of_update.measured(subject, outputs, update)
        step = None
        if measured is not None:
            scale = subject.config.completions_per_step
            step = scale * (update.seconds / update.completions)
            step += expected_seconds(subject, outputs) / subject.config.steps
        return replace(found, engine=engine, update=update, measured=measured, step_seconds=step), reasons


def _parser(subject: Subject, would: float, name: str, cure: Cure, passing: float) -> Reason:
    return Reason(
        "parser",
        "stop",
        f"{'no completion passes' if not passing else f'{passing:.1%} of completions pass'} the reward "
        f"'{subject.config.success_name}', and {would:.0%} of the same completions pass `{name}`",
        ("it does not find, or does not believe, the answers that the model gives",),
        (cure,),
    )


def best_template(
    subject: Subject, outputs: Outputs, budget: Budget
) -> tuple[str | None, of_outputs.Comparison] | None:
    """The prompt template with which clearly more completions pass, None being the chat template; None if none does."""
    tokenizer, own = subject.loaded.tokenizer, subject.config.prompt_template
    candidates: list[str | None] = [*of_data.candidate_templates(tokenizer.get_vocab())]
    if own is not None and tokenizer.chat_template:
        candidates.insert(0, None)
    best: tuple[str | None, of_outputs.Comparison] | None = None
    for template in candidates:
        if template == own or not budget.left():
            continue
        found = of_outputs.compare(subject, {"prompt_template": template, "system_prompt": None}, outputs)
        if found.clearly and (best is None or found.other > best[1].other):
            best = (template, found)
    return best


def _of_demonstrations(subject: Subject) -> Iterator[Reason]:
    """Where SFT comes first: does what it teaches fit into a completion?"""
    limit = subject.config.max_completion_length
    longer = sum(length > limit for length in subject.demonstrations)
    if not longer:
        return
    share = longer / len(subject.demonstrations)
    enough = sorted(subject.demonstrations)[int(0.99 * (len(subject.demonstrations) - 1))]
    yield Reason(
        "truncated",
        "stop" if share >= 0.9 else "slow" if share >= 0.25 else "note",
        f"{share:.0%} of the demonstrations of SFT are longer than max_completion_length {limit}",
        (f"99 % of them have at most {enough} tokens",),
        (Cure("Give completions the room that SFT teaches:", {"max_completion_length": 8 * -(-enough // 8)}),),
    )
