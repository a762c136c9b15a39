r"""Completions whose verdict is known beforehand, made from a problem and its reference.

| probe | what it is | must |
|---|---|---|
| gold | the data's own reference, as a completion | pass |
| empty | nothing | fail |
| garbage | forty words of random letters | fail |
| echoed prompt | the question again | fail |
| all answers | every answer of the problems tried, the right one in the middle | fail |
| truncated gold | the first half of the gold | fail |
| wrong by one | the gold with a number one more, another choice or role, the answer of another row | fail |
| | of a program: what it returns or prints is changed a little | |
| repeated wrong answer | wrong by one, twenty times over | fail |
| another row's gold | the gold of a problem with another answer | fail |
| empty program | `pass` | fail |
| equals anything | a program whose result's `==` is always true | fail |
| quits | a program that exits with success | fail |
| form: ... | the right answer in other forms | either |

1. What can't be made of a problem is left out: there is no truncated gold without a gold.
2. Some probes may pass by right: half of a worked solution may state the answer, a changed program may be correct, and
   a question's last number (or "Simplify $2/4$." itself) may be its answer. `SHARES` says how often before it counts as
   a hole.
3. The answer is varied at its first number, by 1, or by more than the tolerance where one is given.
"""

import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from gruppo.data.duplicates import ANSWERS
from gruppo.data.gold import default_reward, gold_completion
from gruppo.preflight.programs import off_by_one, trivial_programs, unfenced
from gruppo.rewards.answers import normal
from gruppo.rewards.math import reference_answer
from gruppo.types import Problem

Must = Literal["pass", "fail", "either"]

GOLD = "gold"
FORM = "form: "

SHARES = {
    "echoed prompt": 0.1,
    "truncated gold": 0.05,
    "wrong by one": 0.05,
    "repeated wrong answer": 0.05,
    "another row's gold": 0.05,
}
"""Share of passes up to which a probe that must fail is no finding; 0 for all others."""

_MOST_LISTED = 40
_MOST_LOOKED_AT = 200
_LONGEST_LISTED = 200
_REPEATS = 20
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")
_CHOICE = re.compile(r"\(?([A-J])\)?\.?")
_ROLE = re.compile(r"\b(knight|knave)\b", re.IGNORECASE)
_FLIPPED = {"yes": "no", "no": "yes", "true": "false", "false": "true"}


@dataclass(frozen=True, slots=True)
class Probe:
    """A completion and what the rubric must make of it."""

    name: str
    text: str
    must: Must
    truncated: bool = False


class Prober:
    """Makes the probes of problems, which lend each other their answers."""

    def __init__(self, problems: Sequence[Problem], tolerance: float = 0.0) -> None:
        """tolerance: relative difference up to which the rubric takes numbers as equal."""
        self._problems = problems
        self._place = {problem.id: index for index, problem in enumerate(problems)}
        self._tolerance = tolerance
        self._golds = [gold_completion(problem) for problem in problems]
        self._kinds = [default_reward([problem]) for problem in problems]
        self._answers = [_short(problem, kind) for problem, kind in zip(problems, self._kinds)]
        self._known: dict[str | None, dict[str, None]] = {}
        for kind, answer in zip(self._kinds, self._answers):
            if answer and len(answer) <= _LONGEST_LISTED:
                self._known.setdefault(kind, {})[answer] = None

    def of(self, problem: Problem) -> list[Probe]:
        """The probes of one of the problems, the gold first where there is one."""
        place = self._place[problem.id]
        gold = self._golds[place]
        probes = [] if gold is None else [Probe(GOLD, gold, "pass")]
        probes += [Probe(name, text, "fail") for name, text in self._trivial(place)]
        if gold is not None:
            probes += self._near(place, gold)
            probes += [Probe(FORM + name, text, "either") for name, text in self._forms(place, gold)]
        return probes

    def _trivial(self, place: int) -> Iterator[tuple[str, str]]:
        """Completions that know nothing of the right answer, or hide it among all others."""
        problem = self._problems[place]
        yield "empty", ""
        yield "garbage", _garbage(problem.id)
        yield "echoed prompt", problem.prompt
        listed = self._all_answers(place)
        if listed is not None:
            yield "all answers", listed
        if self._kinds[place] == "code":
            yield from trivial_programs(problem)

    def _near(self, place: int, gold: str) -> Iterator[Probe]:
        """Completions that come close to the gold."""
        half = gold[: len(gold) // 2]
        if half.strip():
            yield Probe("truncated gold", half, "fail", truncated=True)
        near = self._wrong(place, gold)
        if near is not None and near != gold:
            yield Probe("wrong by one", near, "fail")
            yield Probe("repeated wrong answer", "\n\n".join([near] * _REPEATS), "fail")
        other = self._other(place)
        if other is not None:
            yield Probe("another row's gold", self._golds[other] or "", "fail")

    def _wrong(self, place: int, gold: str) -> str | None:
        """The gold with another answer."""
        problem, kind = self._problems[place], self._kinds[place]
        if kind == "code":
            return off_by_one(problem, gold)
        if kind == "logic":
            return _other_role(gold)
        short = self._answers[place]
        if short is None:
            return None
        near = _near_answer(short, self._tolerance)
        if near is None or _accepted(problem, near):
            other = self._other(place)
            near = None if other is None else self._answers[other]
        if near is None:
            return None
        worked = replace_last(problem.answer or "", short, near) if "####" in (problem.answer or "") else near
        return gold_completion(replace(problem, answer=worked))

    def _other(self, place: int) -> int | None:
        """The next problem of this kind with a gold and another answer."""
        count = len(self._problems)
        for step in range(1, min(count, _MOST_LOOKED_AT)):
            other = (place + step) % count
            if self._kinds[other] != self._kinds[place] or self._golds[other] in (None, self._golds[place]):
                continue
            if self._kinds[place] in ("code", "logic"):
                if self._problems[other].prompt != self._problems[place].prompt:
                    return other
            elif not _accepted(self._problems[place], self._answers[other] or ""):
                return other
        return None

    def _all_answers(self, place: int) -> str | None:
        """Every answer of this kind in one sentence, the right one in the middle; None where there is but one."""
        kind, own = self._kinds[place], self._answers[place]
        gold = self._golds[place]
        if kind == "logic" and gold is not None:
            return f"{gold}\n{_ROLE.sub(_swapped, gold)}"
        if kind == "code" or own is None:
            return None
        known = [answer for answer in islice(self._known.get(kind, {}), _MOST_LISTED + 1) if answer != own]
        if not known:
            return None
        middle = len(known) // 2
        return f"The answer is {', '.join([*known[:middle], own, *known[middle:]])}."

    def _forms(self, place: int, gold: str) -> Iterator[tuple[str, str]]:
        """The right answer as other prompts and data sets have it."""
        kind, short = self._kinds[place], self._answers[place]
        if kind == "code":
            program = unfenced(gold)
            yield "program alone", program
            yield "fence without language", f"```\n{program}\n```"
            yield "prose around", f"Here is the program:\n\n```python\n{program}\n```\n\nIt does what is asked."
        elif kind == "logic":
            yield "<answer>", f"<answer>\n{gold}\n</answer>"
            yield "<think> <answer>", f"<think>\nLet me see.\n</think>\n<answer>\n{gold}\n</answer>"
        elif short is not None:
            yield "answer alone", short
            yield "#### answer", f"#### {short}"
            yield "\\boxed{answer}", f"\\boxed{{{short}}}"
            yield "sentence", f"The answer is {short}."
            yield "<answer>", f"<answer>{short}</answer>"
            yield "<think> <answer>", f"<think>\nLet me see.\n</think>\n<answer>{short}</answer>"


def replace_last(text: str, old: str, new: str) -> str:
    """The text with the last `old` in it as `new`."""
    head, found, tail = text.rpartition(old)
    return f"{head}{new}{tail}" if found else new


def _short(problem: Problem, kind: str | None) -> str | None:
    """The answer itself, without its working."""
    if problem.answer is None or not problem.answer.strip() or kind in ("code", "logic", None):
        return None
    return reference_answer(problem.answer) if kind == "math" else problem.answer


def _accepted(problem: Problem, text: str) -> bool:
    """Whether a text is one of the problem's accepted answers, as far as text alone can tell."""
    answers = problem.columns.get(ANSWERS)
    texts = answers if isinstance(answers, list) else [reference_answer(problem.answer or "")]
    return (normal(text) or text.strip()) in {normal(str(answer)) or str(answer).strip() for answer in texts}


def _near_answer(answer: str, tolerance: float) -> str | None:
    """Another choice, the other of yes and no, a number one more; None: there is nothing to vary."""
    flipped = _FLIPPED.get(answer.strip().casefold())
    if flipped is not None:
        return flipped.capitalize() if answer.strip()[0].isupper() else flipped
    choice = _CHOICE.fullmatch(answer.strip())
    if choice is not None:
        letter = "A" if choice[1] != "A" else "B"
        return answer.replace(choice[1], letter)
    number = _NUMBER.search(answer)
    if number is None:
        return None
    return answer[: number.start()] + _more(number[0], tolerance) + answer[number.end() :]


def _more(number: str, tolerance: float) -> str:
    digits = number.replace(",", "")
    whole, dot, decimals = digits.partition(".")
    step = max(1, math.ceil(2 * tolerance * float(digits))) if len(digits) < 300 else 1
    more = int(whole or "0") + step if len(whole) < 4000 else 1
    return f"{more:,}{dot}{decimals}" if "," in number else f"{more}{dot}{decimals}"


def _other_role(gold: str) -> str | None:
    """The gold with the first knight a knave, or the other way about; None: there is neither."""
    changed = _ROLE.sub(_swapped, gold, count=1)
    return changed if changed != gold else None


def _swapped(match: re.Match[str]) -> str:
    role = "knave" if match[0].casefold() == "knight" else "knight"
    return role.capitalize() if match[0][0].isupper() else role


def _garbage(seed: str) -> str:
    draw = random.Random(f"garbage {seed}")
    return " ".join("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(40))
