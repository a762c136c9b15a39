"""The demo's task: word problems of two sentences and a question, with an answer that a program can check.

A problem adds, subtracts, or multiplies by one digit, with numbers of one to three digits. A demonstration
has the form of GSM8K's answers and comes in two styles: worked, digit by digit from the right,

    95-59: 5-9-0=16; 9-5-1=03 #### 36

where each step is `digit op digit op carry = carry out, digit of the answer`; and bare, `#### 36`.

Held out are a fifth of the number pairs and a fifth of the template combinations (opening x action x
question), both decided by a hash that no seed and no process changes. A pair counts without its order and
for all three operations. A held-out problem has both unseen; a problem for training has neither.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import product
from typing import Literal

import numpy as np

Operation = Literal["+", "-", "*"]
Pair = tuple[int, int]
DigitRange = tuple[int, int]
"""Fewest and most digits of a number, both included."""

OPERATIONS: tuple[Operation, ...] = ("+", "-", "*")
PROBLEM_DIGITS: DigitRange = (2, 3)
"""Digits in the problems of GRPO and of the evaluation; the factor of a product always has one."""

_NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jack", "Kate", "Leo")
_PRONOUNS = ("She", "He")
_NOUNS = (
    "apples", "books", "cards", "coins", "cups", "eggs", "flowers", "lemons",
    "marbles", "pears", "pencils", "roses", "shells", "stamps", "stickers", "toys",
)  # fmt: skip
_CONTAINERS = (("box", "boxes"), ("bag", "bags"), ("basket", "baskets"), ("jar", "jars"))


@dataclass(frozen=True, slots=True)
class Wording:
    """The sentences of one operation; every opening goes with every action and every question."""

    openings: tuple[str, ...]
    actions: tuple[str, ...]
    questions: tuple[str, ...]


_ONE_PILE = (
    "{name} has {a} {nouns}.",
    "There are {a} {nouns} in {name}'s room.",
    "{name} starts the day with {a} {nouns}.",
    "On Monday {name} counts {a} {nouns}.",
    "In spring {name} owned {a} {nouns}.",
)
WORDINGS: dict[Operation, Wording] = {
    "+": Wording(
        openings=_ONE_PILE,
        actions=(
            "{pronoun} buys {b} more.",
            "A friend brings {b} more {nouns}.",
            "Then {name} finds another {b}.",
            "{pronoun} gets {b} new {nouns}.",
            "The neighbors add {b} {nouns}.",
        ),
        questions=(
            "How many {nouns} does {name} have now?",
            "How many {nouns} are there in all?",
            "How many {nouns} is that altogether?",
            "What is the number of {nouns} then?",
        ),
    ),
    "-": Wording(
        openings=_ONE_PILE,
        actions=(
            "{pronoun} sells {b} of them.",
            "A friend takes {b} {nouns} away.",
            "Then {name} loses {b}.",
            "{pronoun} gives away {b} {nouns}.",
            "The neighbors borrow {b} of these.",
        ),
        questions=(
            "How many {nouns} does {name} have now?",
            "How many {nouns} are left?",
            "How many {nouns} remain?",
            "What is the number of {nouns} then?",
        ),
    ),
    "*": Wording(
        openings=(
            "{name} has {a} {containers} of {nouns}.",
            "There are {a} {containers} in {name}'s room.",
            "{name} fills {a} {containers} with {nouns}.",
            "On Monday {name} counts {a} {containers}.",
            "In spring {name} owned {a} {containers}.",
        ),
        actions=(
            "Each {container} holds {b} {nouns}.",
            "Every {container} has {b} {nouns} in it.",
            "{pronoun} puts {b} {nouns} in each {container}.",
            "The {nouns} in one {container} are {b}.",
            "A {container} is full with {b} {nouns}.",
        ),
        questions=(
            "How many {nouns} does {name} have now?",
            "How many {nouns} are there in all?",
            "How many {nouns} is that altogether?",
            "What is the number of {nouns} then?",
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Template:
    """One opening, one action and one question of an operation, by their places in `WORDINGS`."""

    operation: Operation
    opening: int
    action: int
    question: int

    @property
    def held_out(self) -> bool:
        """Whether this combination is kept for evaluation."""
        return _in_held_out_fifth(f"template {self.operation} {self.opening} {self.action} {self.question}")


@dataclass(frozen=True, slots=True)
class ArithmeticProblem:
    """A word problem with its answer and both styles of demonstration."""

    question: str
    answer: str
    """The number alone, `36`."""
    worked: str
    """The worked demonstration, `95-59: 5-9-0=16; 9-5-1=03 #### 36`."""
    operands: Pair
    template: Template

    @property
    def bare(self) -> str:
        """The demonstration without working, `#### 36`."""
        return f"#### {self.answer}"


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A question and a completion to learn from."""

    question: str
    completion: str


@dataclass(frozen=True, slots=True)
class CurriculumSpan:
    """A stretch of SFT with one kind of demonstration."""

    end: float
    """Where it ends, as a share of all steps."""
    digits: DigitRange
    worked_share: float
    """Share of the demonstrations that are worked; the others are bare."""


CURRICULUM: tuple[CurriculumSpan, ...] = (
    CurriculumSpan(end=0.35, digits=(1, 2), worked_share=1.0),
    CurriculumSpan(end=0.75, digits=(1, 3), worked_share=1.0),
    CurriculumSpan(end=1.0, digits=(1, 3), worked_share=0.35),
)


def pair_held_out(a: int, b: int) -> bool:
    """Whether the two numbers, in whichever order, are kept for evaluation."""
    return _in_held_out_fifth(f"pair {min(a, b)} {max(a, b)}")


@cache
def templates(operation: Operation, held_out: bool) -> tuple[Template, ...]:
    """The template combinations of one operation on one side of the split, in a fixed order."""
    wording = WORDINGS[operation]
    places = product(range(len(wording.openings)), range(len(wording.actions)), range(len(wording.questions)))
    every = (Template(operation, *place) for place in places)
    return tuple(template for template in every if template.held_out == held_out)


def make_problem(rng: np.random.Generator, digits: DigitRange, held_out: bool) -> ArithmeticProblem:
    """Draw a problem: operation, then lengths of the numbers, then the numbers, each evenly.

    With `held_out`, number pair and template combination are both of the held-out fifths; else neither is.
    """
    operation = OPERATIONS[rng.integers(len(OPERATIONS))]
    choices = templates(operation, held_out)
    template = choices[rng.integers(len(choices))]
    a, b = _draw_operands(rng, operation, digits, held_out)
    answer = _RESULTS[operation](a, b)
    return ArithmeticProblem(
        question=_render(rng, template, a, b),
        answer=str(answer),
        worked=f"{a}{operation}{b}: {'; '.join(_steps(operation, a, b))} #### {answer}",
        operands=(a, b),
        template=template,
    )


def sft_examples(seed: int, steps: int = 1500, batch_size: int = 32) -> Iterator[Demonstration]:
    """The demonstrations of SFT, `steps` x `batch_size` of them, in the order of the curriculum."""
    rng = np.random.default_rng((seed, 0))
    for step in range(steps):
        span = next(span for span in CURRICULUM if step < span.end * steps)
        for _ in range(batch_size):
            problem = make_problem(rng, span.digits, held_out=False)
            worked = rng.random() < span.worked_share
            yield Demonstration(problem.question, problem.worked if worked else problem.bare)


def training_problems(seed: int, n: int) -> list[ArithmeticProblem]:
    """`n` problems for GRPO, other draws than those of SFT."""
    rng = np.random.default_rng((seed, 1))
    return [make_problem(rng, PROBLEM_DIGITS, held_out=False) for _ in range(n)]


def held_out_problems(seed: int, n: int = 200) -> list[ArithmeticProblem]:
    """`n` problems for evaluation, no two of them with the same operation on the same numbers."""
    rng = np.random.default_rng((seed, 2))
    problems: dict[tuple[Operation, Pair], ArithmeticProblem] = {}
    while len(problems) < n:
        problem = make_problem(rng, PROBLEM_DIGITS, held_out=True)
        problems.setdefault((problem.template.operation, problem.operands), problem)
    return list(problems.values())


_STEP = re.compile(r"\d[-+*]\d[-+]\d=\d\d")


def is_worked(completion_text: str) -> bool:
    """Whether a completion shows at least one step of working before its answer, right or wrong."""
    return _STEP.search(completion_text.partition("####")[0]) is not None


def _in_held_out_fifth(key: str) -> bool:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) % 5 == 0


_RESULTS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def _draw_number(rng: np.random.Generator, digits: DigitRange) -> int:
    length = int(rng.integers(digits[0], digits[1] + 1))
    # From 2, so that no sentence counts one of a plural.
    return int(rng.integers(max(2, 10 ** (length - 1)), 10**length))


def _draw_operands(rng: np.random.Generator, operation: Operation, digits: DigitRange, held_out: bool) -> Pair:
    while True:
        a = _draw_number(rng, digits)
        b = _draw_number(rng, (1, 1) if operation == "*" else digits)
        if pair_held_out(a, b) == held_out:
            return (max(a, b), min(a, b)) if operation == "-" else (a, b)


def _render(rng: np.random.Generator, template: Template, a: int, b: int) -> str:
    wording = WORDINGS[template.operation]
    name = int(rng.integers(len(_NAMES)))
    container, containers = _CONTAINERS[rng.integers(len(_CONTAINERS))]
    sentences = (
        wording.openings[template.opening],
        wording.actions[template.action],
        wording.questions[template.question],
    )
    return " ".join(sentences).format(
        name=_NAMES[name],
        pronoun=_PRONOUNS[name % 2],
        nouns=_NOUNS[rng.integers(len(_NOUNS))],
        container=container,
        containers=containers,
        a=a,
        b=b,
    )


def _steps(operation: Operation, a: int, b: int) -> Iterator[str]:
    """One step per digit of the longer number, from the right; `carry` is what subtraction borrows."""
    carry = 0
    for place in range(max(len(str(a)), len(str(b)))):
        left = a // 10**place % 10
        right = b if operation == "*" else b // 10**place % 10
        if operation == "+":
            carry_out, digit = divmod(left + right + carry, 10)
        elif operation == "-":
            borrowed, digit = divmod(left - right - carry, 10)
            carry_out = -borrowed
        else:
            carry_out, digit = divmod(left * right + carry, 10)
        yield f"{left}{operation}{right}{'-' if operation == '-' else '+'}{carry}={carry_out}{digit}"
        carry = carry_out
