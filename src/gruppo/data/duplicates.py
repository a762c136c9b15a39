"""Problems that ask the same: within the training data, and in training and evaluation both.

Two problems ask the same where their questions are equal but for white space and case; of a conversation, all of
its messages. Nothing is removed here: what is found is told.
"""

from collections.abc import Sequence

from gruppo.types import Problem

PROMPT_MESSAGES = "prompt_messages"
"""The column that holds the messages of a prompt that is a conversation."""
ANSWERS = "answers"
"""The column that holds every accepted answer."""


def normalised_prompt(problem: Problem) -> str:
    """The question in lower case, its white space as single spaces; every message where it is a conversation."""
    messages = problem.columns.get(PROMPT_MESSAGES)
    texts = [problem.prompt] if messages is None else [str(message["content"]) for message in messages]
    return "\n".join(_normalised(text) for text in texts)


def duplicate_notes(problems: Sequence[Problem]) -> list[str]:
    """How many problems repeat another's question, and how many questions have answers that conflict.

    Answers conflict where they differ but for white space and case (of a worked answer, what follows the last
    `####`; of lists of accepted answers, where no answer is in all of them).
    """
    by_prompt: dict[str, list[Problem]] = {}
    for problem in problems:
        by_prompt.setdefault(normalised_prompt(problem), []).append(problem)
    repeated = [same for same in by_prompt.values() if len(same) > 1]
    if not repeated:
        return []
    first, second = repeated[0][:2]
    notes = [
        f"{len(problems) - len(by_prompt)} of {len(problems)} problems repeat the question of another (such as "
        f"{first.id} and {second.id}); they are kept"
    ]
    conflicts = [same for same in repeated if _conflict(same)]
    if conflicts:
        one, other = _unlike(conflicts[0])
        notes.append(
            f"warning: {len(conflicts)} questions stand more than once with different answers (such as {one.id}: "
            f"{_clip(one.answer)}, and {other.id}: {_clip(other.answer)}); what a completion earns there is chance: "
            "add what tells them apart to the prompt, or remove the rows that are wrong"
        )
    return notes


def overlap_warning(train: Sequence[Problem], held_out: Sequence[Problem]) -> str | None:
    """How many held-out problems ask what a training problem asks; None where none does."""
    trained = {normalised_prompt(problem): problem.id for problem in reversed(train)}
    shared = [problem for problem in held_out if normalised_prompt(problem) in trained]
    if not shared:
        return None
    examples = ", ".join(f"{problem.id} is {trained[normalised_prompt(problem)]}" for problem in shared[:2])
    return (
        f"{len(shared)} of {len(held_out)} problems of eval.data are in the training data too ({examples}): there the "
        "evaluation measures memory; take them out of one of the two"
    )


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())


def _accepted(problem: Problem) -> set[str] | None:
    """The accepted answers, normalised; None where the problem has none."""
    if problem.answer is None:
        return None
    answers = problem.columns.get(ANSWERS)
    texts = answers if isinstance(answers, list) else [problem.answer]
    return {_normalised(str(text).rpartition("####")[2]) for text in texts}


def _conflict(same: Sequence[Problem]) -> bool:
    accepted = [answers for problem in same if (answers := _accepted(problem)) is not None]
    return bool(accepted) and not set.intersection(*accepted)


def _unlike(same: Sequence[Problem]) -> tuple[Problem, Problem]:
    """The first problem with an answer, and the first whose answers share the least with its."""
    answered = [problem for problem in same if problem.answer is not None]
    one = answered[0]
    return one, min(answered[1:], key=lambda other: len((_accepted(one) or set()) & (_accepted(other) or set())))


def _clip(answer: str | None) -> str:
    text = " ".join(str(answer).rpartition("####")[2].split())
    return repr(text if len(text) <= 40 else text[:37] + "...")
