"""What the data, its prompts and the rewards have against a run, before anything is sampled."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gruppo.config.rewards import MathReward
from gruppo.data.duplicates import normalised_prompt
from gruppo.data.gold import TESTS, default_reward
from gruppo.preflight.findings import Finding
from gruppo.preflight.reasons import Cure, Level, Reason
from gruppo.preflight.reward_test import RewardTest
from gruppo.preflight.subject import Subject
from gruppo.types import Problem

MARK = re.compile(r"<\|[^|<>\s]{1,40}\|>|<(?:start|end)_of_turn>")
"""What chat templates write between turns, each one token where the template is the tokenizer's own."""
TEMPLATES: tuple[tuple[str, str], ...] = (
    ("<|im_start|>", "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"),
    (
        "<|start_header_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n{prompt}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    ("<start_of_turn>", "<start_of_turn>user\n{prompt}<end_of_turn>\n<start_of_turn>model\n"),
    ("<|assistant|>", "<|user|>{prompt}<|end|><|assistant|>"),
    ("<|assistant|>", "<|user|>\n{prompt}<|end|>\n<|assistant|>\n"),
    ("", "{prompt}\n"),
)
"""Plain forms of chat templates, each by a token that tells whose it is; the last is for any model."""
_LONG_SHARE = 0.02
"""Share of prompts that may be too long before that is more than a note."""
_WORTHLESS = ("empty", "garbage", "echoed prompt", "all answers")
"""Where more than half of these pass, that is what the run would teach."""


@dataclass(frozen=True, slots=True)
class PromptFigures:
    """The data in figures; lengths in tokens."""

    problems: int
    shortest: int
    median: int
    p99: int
    longest: int
    context: int | None
    too_long: int
    duplicates: int
    without_answer: int
    held_out: int
    overlap: int
    """Held-out problems that are training problems too."""


def figures(subject: Subject) -> PromptFigures:
    """The data in figures."""
    lengths = np.array([len(problem.prompt_ids) for problem in subject.problems])
    asked = [normalised_prompt(problem) for problem in subject.problems]
    known = set(asked)
    return PromptFigures(
        problems=len(lengths),
        shortest=int(lengths.min()),
        median=int(np.median(lengths)),
        p99=int(np.quantile(lengths, 0.99, method="higher")),
        longest=int(lengths.max()),
        context=subject.loaded.context_length,
        too_long=0 if subject.prompt_limit is None else int((lengths > subject.prompt_limit).sum()),
        duplicates=len(asked) - len(known),
        without_answer=sum(p.answer is None and p.columns.get(TESTS) is None for p in subject.problems),
        held_out=len(subject.held_out),
        overlap=sum(normalised_prompt(problem) in known for problem in subject.held_out),
    )


def reasons(subject: Subject, found: PromptFigures) -> Iterator[Reason]:
    """What the data and its prompts have against the run."""
    yield from _too_long(subject, found)
    yield from _template(subject)
    yield from _overlap(subject, found)
    if found.duplicates:
        share = found.duplicates / found.problems
        yield Reason("duplicates", "note", f"{found.duplicates} of {found.problems} problems ({share:.0%}) are repeats")


def _too_long(subject: Subject, found: PromptFigures) -> Iterator[Reason]:
    """Prompts that leave no room for a completion in the context, or that max_prompt_length leaves out."""
    if not found.too_long:
        return
    config, context = subject.config, found.context
    share = found.too_long / found.problems
    level: Level = "stop" if not subject.first else "slow" if share > _LONG_SHARE else "note"
    room = None if context is None else context - found.p99
    cures: list[Cure] = []
    longest = max(len(problem.prompt_ids) for problem in subject.problems)
    if config.max_prompt_length is not None and (context is None or longest + config.longest_completion <= context):
        cures.append(Cure("Let the prompts be as long as they are:", {"max_prompt_length": longest}))
    elif room is not None and room >= max(16, config.longest_completion // 8):
        cures.append(Cure("Leave them room in the context:", {"max_completion_length": room}))
    cures.append(Cure("Shorten the prompts, or take a model of a longer context."))
    left_out = f"{found.too_long} of {found.problems} prompts ({share:.0%})"
    evidence = (
        f"prompts have {found.shortest} to {found.longest} tokens; the limit is {subject.prompt_limit}"
        + (
            f" = context {context} - completion {config.longest_completion}" if config.max_prompt_length is None else ""
        ),
    )
    yield Reason("long_prompts", level, f"{left_out} are too long and left out", evidence, tuple(cures))


def _template(subject: Subject) -> Iterator[Reason]:
    """A chat template that is not this tokenizer's, or that loses the question."""
    problem = subject.problems[0]
    tokenizer = subject.loaded.tokenizer
    asked = " ".join(problem.prompt.split())
    if asked[:60] not in " ".join(problem.prompt_text.split()):
        yield Reason(
            "template",
            "stop",
            "the prompt that the model sees does not have the question in it",
            (f"{problem.id}: {problem.prompt_text[:120]!r}",),
            (
                Cure(
                    "Give a plain template in place of the chat template:", {"prompt_template": plain_template(subject)}
                ),
            ),
        )
        return
    marks = set(MARK.findall(problem.prompt_text)) - set(MARK.findall(problem.prompt))
    broken = sorted(mark for mark in marks if len(tokenizer(mark, add_special_tokens=False)["input_ids"]) > 1)
    if broken:
        yield Reason(
            "template",
            "slow",
            f"the chat template is not this model's: {', '.join(broken)} "
            f"{'is no token' if len(broken) == 1 else 'are no tokens'} of its tokenizer, but pieces of text",
            (f"{problem.id}: {problem.prompt_text[:120]!r}",),
            (Cure("Give a plain template in place of it:", {"prompt_template": plain_template(subject)}),),
        )


def candidate_templates(vocabulary: Mapping[str, int]) -> list[str]:
    """Plain templates for a model of this vocabulary, the likeliest first."""
    return [template for mark, template in TEMPLATES if not mark or mark in vocabulary]


def plain_template(subject: Subject) -> str:
    """The likeliest plain template for the model."""
    return candidate_templates(subject.loaded.tokenizer.get_vocab())[0]


def _overlap(subject: Subject, found: PromptFigures) -> Iterator[Reason]:
    """Problems of the evaluation that are trained on."""
    if not found.overlap:
        return
    shared = {normalised_prompt(problem) for problem in subject.held_out}
    rows: dict[str, list[int]] = {}
    examples: list[str] = []
    for problem in subject.problems:
        if normalised_prompt(problem) in shared:
            examples.append(problem.id)
            number = problem.id.rpartition(":")[2]
            if problem.source.endswith(".jsonl") and number.isdigit():
                rows.setdefault(problem.source, []).append(int(number))
    fixable = sum(map(len, rows.values())) == len(examples) < found.problems
    cures = [Cure("Take the rows out of the training data.", without_rows=_frozen(rows))] if fixable else []
    cures += [Cure("Take them out of one of the two.")] if not fixable else []
    yield Reason(
        "overlap",
        "slow",
        f"{found.overlap} of {found.held_out} problems of eval.data ({found.overlap / found.held_out:.0%}) are in the "
        "training data: there the evaluation measures memory",
        (f"in training: {', '.join(examples[:4])}" + (f" and {len(examples) - 4} more" if len(examples) > 4 else ""),),
        tuple(cures),
    )


def _frozen(rows: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    return {source: tuple(numbers) for source, numbers in rows.items()}


def reward_reasons(subject: Subject, test: RewardTest, *, passing: float | None) -> Iterator[Reason]:
    """What the rewards' own test has found.

    Args:
        subject: whose rewards.
        test: of them.
        passing: the share of the model's completions that pass; None: not sampled.
    """
    hacks = [finding for finding in test.findings if finding.kind == "hack" and finding.mend]
    if hacks:
        shares = {_probe(finding): len(finding.rows) / max(1, test.problems) for finding in hacks}
        level: Level = "stop" if any(shares.get(name, 0.0) > 0.5 for name in _WORTHLESS) else "slow"
        told = ", ".join(f"'{name}' on {min(share, 1.0):.0%}" for name, share in shares.items())
        evidence = hacks[0].evidence[:1]
        yield Reason("reward_hack", level, f"completions that must not pass do: {told} of problems", evidence, ())
    for finding in test.findings:
        if finding.kind != "hack" and (finding.mend or finding.kind == "rows"):
            level = _level(finding, test, passing)
            cures = (Cure(finding.cure),) if finding.cure else ()
            yield Reason(f"reward_{finding.kind.replace(' ', '_')}", level, finding.what, finding.evidence[:2], cures)


def _probe(finding: Finding) -> str:
    """The kind of completion that a finding of the kind `hack` is about."""
    return finding.what.split("'")[1]


def _level(finding: Finding, test: RewardTest, passing: float | None) -> Level:
    if not finding.mend or (finding.kind == "form" and passing):
        return "note"
    share = len(finding.rows) / max(1, test.problems)
    if finding.kind in ("gold", "form", "scale", "gate", "rows"):
        return "stop" if not passing and (share > 0.5 or finding.kind in ("scale", "gate")) else "slow"
    return "stop" if finding.kind == "failures" and share > 0.5 else "slow"


def separates(test: RewardTest) -> bool:
    """Whether rewards tell known answers from completions that must not pass, but for a few."""
    shares: dict[str, float] = {}
    for must in ("pass", "fail"):
        probes = [probe for probe in test.probes if probe.must == must]
        shares[must] = sum(probe.passed for probe in probes) / max(1, sum(probe.tried for probe in probes))
    return shares["pass"] > 0.98 and shares["fail"] < 0.1


def fallback_reward(subject: Subject) -> str | None:
    """The built-in reward that fits the data, where it is not the one that decides already in its plain form."""
    name = default_reward(subject.problems[:200])
    decides = next(reward for reward in subject.config.rewards if reward.name == subject.config.success_name)
    plain = not (isinstance(decides, MathReward) and decides.strict)
    return None if name == decides.name and plain else name


def passes_of(subject: Subject, problems_and_texts: Sequence[tuple[Problem, Sequence[str]]]) -> float:
    """The share of these completions that the subject's rubric passes."""
    passed = total = 0
    for problem, texts in problems_and_texts:
        lengths = [len(text.split()) for text in texts]
        scores = subject.rubric.submit(problem, texts, [False] * len(texts), lengths)()
        passed += sum(score.passed for score in scores)
        total += len(texts)
    return passed / total if total else 0.0
