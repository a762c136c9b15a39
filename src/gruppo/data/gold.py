"""What the data itself says of its problems: a completion that must score full, and the reward that fits.

1. The reference is that of the row's form, where it has one and the answer is the form's own; else it is made of the
   answer. An answer that is worked out itself (`#### 72`, a box) is the completion as it stands.
2. Problems of different kinds have no one reward: then the user must say which is for which.
"""

from collections.abc import Sequence

from gruppo.data.duplicates import ANSWERS
from gruppo.data.forms import RowForm, find_form
from gruppo.types import Problem

TESTS = "tests"


def gold_completion(problem: Problem) -> str | None:
    """The completion that must score full; None where the data has none."""
    form = _form(problem)
    if form is not None and form.gold is not None and _answer_is_its_own(problem, form):
        gold = form.gold(problem.columns)
        if gold is not None:
            return gold
    if form is not None and form.reward == "code":
        return None
    if problem.answer is None or not problem.answer.strip():
        return None
    if form is not None and form.reward == "reasoning_gym":
        return f"<answer>{problem.answer}</answer>"
    return _stated(problem.answer, plain=ANSWERS in problem.columns)


def default_reward(problems: Sequence[Problem]) -> str | None:
    """The built-in reward for a run that names none: math, code, logic, qa or reasoning_gym.

    None where problems are of several kinds, or have nothing to be checked by.
    """
    kinds = {kind for kind in map(_kind, problems) if kind is not None}
    return kinds.pop() if len(kinds) == 1 else None


def _kind(problem: Problem) -> str | None:
    form = _form(problem)
    if problem.columns.get(TESTS) is not None or (form is not None and form.reward == "code"):
        return "code"
    if form is not None and form.reward in ("logic", "reasoning_gym"):
        return form.reward
    if ANSWERS in problem.columns:
        return "qa"
    return None if problem.answer is None else "math"


def _form(problem: Problem) -> RowForm | None:
    return find_form(problem.columns, problem.columns)


def _answer_is_its_own(problem: Problem, form: RowForm) -> bool:
    """Whether the answer is what the form makes of the row, and no template of the user's."""
    return form.answer is None or problem.answer == form.answer(problem.columns)


def _stated(answer: str, *, plain: bool) -> str:
    """A completion that states the answer."""
    if "####" in answer or "\\boxed" in answer or "\\fbox" in answer:
        return answer
    whole = answer.count("{") == answer.count("}")
    return f"The answer is {answer}." if plain or not whole else f"The answer is \\boxed{{{answer}}}."
