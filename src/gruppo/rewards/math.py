"""The math reward: is the answer that a completion states equal to the reference answer?

**Which answer.** Only the last 16,384 characters are looked at. The first of these that there is:

1. Text after the last `</think>` (or its like), and in it what stands in the last whole `<answer>...</answer>`.
2. In that text: the last whole `\\boxed{}` or what follows the last `####` on its line, whichever comes later. An
   unclosed box is no answer, nor is a `####` that begins a heading ("#### Step 2").
3. What follows the last "the answer is" or "answer:", up to the end of the sentence.
4. The last line, where it is an answer alone, or its last sentence, where that has exactly one value: behind the last
   "=", behind its verb, or the only number. Several different numbers, or a denial, are no answer.
5. Failing all that, a box or `####` in the reasoning. Reasoning that never ends is looked at for these only.

2 is what the strict score demands; the lenient score takes any. Both are in `.parts`; the value is the lenient one
unless `strict`. `.reason` says how the answer was found, and what it was.

**When equal.** `gruppo.rewards.math_numbers` and `math_compare` say how; what they leave open is for math-verify, which
sympy can hang in: it runs in a worker process that is killed after 2 seconds (score 0, with the reason).
"""

import functools
import math

from gruppo.errors import RewardError
from gruppo.rewards.math_compare import equal
from gruppo.rewards.math_extract import NO_ANSWER, TAIL, Statement, last_box, statement, tidy
from gruppo.rewards.outcomes import Failure
from gruppo.rewards.result import RewardResult
from gruppo.rewards.workers import run_limited

SECONDS = 2.0
"""Of CPU time, for one comparison by math-verify."""
SLOW = "gruppo.rewards.math_symbolic:math_slow"


def math_reward(completion: str, answer: str, *, tolerance: float | None = None, strict: bool = False) -> RewardResult:
    """1 where the completion's stated answer equals the reference answer, else 0, with the reason.

    A total function: any two strings give a score, within about 2 seconds.

    Args:
        completion: what the model wrote.
        answer: the reference: an answer, or a text with `#### answer` or a box in it.
        tolerance: numbers may differ by this share of the reference (0.01: one per cent). None: equal numbers only
            (up to 5e-7 where one is no integer, for decimals of 6 places).
        strict: whether the value demands a box or `####` after the reasoning.
    """
    stated, gold, decided = _fast(completion, answer, tolerance)
    if decided is not None or not stated.text:
        return _result(stated, gold, bool(decided), strict)
    outcome = run_limited(SLOW, SECONDS, gold, stated.text, tolerance)
    if isinstance(outcome, Failure):
        late = outcome.kind == "timeout"
        problem = f"took longer than {SECONDS:g} s to compare" if late else "ended the process that compared it"
        return _result(stated, gold, False, strict, problem)
    return _result(stated, gold, bool(outcome), strict)


def math_unlimited(
    completion: str, answer: str, *, tolerance: float | None = None, strict: bool = False
) -> RewardResult:
    """As `math_reward`, in this process and however long it takes: for a worker, which is killed at its limit."""
    from gruppo.rewards.math_symbolic import math_slow

    stated, gold, decided = _fast(completion, answer, tolerance)
    if decided is None and stated.text:
        decided = math_slow(gold, stated.text, tolerance)
    return _result(stated, gold, bool(decided), strict)


def math_fast(
    completion: str, answer: str, *, tolerance: float | None = None, strict: bool = False
) -> RewardResult | None:
    """As `math_reward`, in linear time and without sympy; None where that is needed."""
    stated, gold, decided = _fast(completion, answer, tolerance)
    return _result(stated, gold, bool(decided), strict) if decided is not None or not stated.text else None


@functools.lru_cache(maxsize=8192)
def reference_answer(text: str) -> str:
    """The answer in a reference: after `####`, in the last `\\boxed{}`, or all of it."""
    position = text.rfind("####")
    box = last_box(text)
    if position >= 0 and (box is None or position >= box[1]):
        line = text[position + 4 :].lstrip(" \t#").split("\n", 1)[0]
        inner = last_box(line)
        return tidy(line if inner is None else inner[0])[:TAIL] or text.strip()[:TAIL]
    return (tidy(box[0]) if box is not None and box[0].strip() else text.strip())[:TAIL]


def stated_answer(completion: str) -> str | None:
    """The answer that a completion states, or None."""
    return statement(completion).text or None


def _fast(completion: str, answer: str, tolerance: float | None) -> tuple[Statement, str, bool | None]:
    """The statement, the reference, and whether they are equal; None: not known without sympy."""
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise RewardError(f"math: tolerance is {tolerance}; wanted a number from 0, such as 0.01 for one per cent.")
    gold = reference_answer(answer)
    stated = statement(completion)
    if not stated.text:
        # A sentence without a value of its own may still be a text answer, word for word.
        return stated, gold, bool(stated.whole and equal(gold, stated.whole, tolerance))
    if stated.whole and equal(gold, stated.whole, tolerance):
        return stated, gold, True
    return stated, gold, equal(gold, stated.text, tolerance)


def _result(stated: Statement, gold: str, right: bool, strict: bool, problem: str = "") -> RewardResult:
    lenient = 1.0 if right else 0.0
    demanded = lenient if stated.strict else 0.0
    parts = {"strict": demanded, "lenient": lenient}
    if not stated.text and not right:
        return RewardResult(0.0, parts, stated.problem or NO_ANSWER)
    shown = _shown(stated.text or stated.whole)
    reason = f"{stated.form}: {shown} {problem or ('equals' if right else 'is not')}"
    if not problem:
        reason = f"{reason} {_shown(gold)}"
    if strict and right and not stated.strict:
        reason = f"{reason}, but is not in a box or after ####"
    return RewardResult(demanded if strict else lenient, parts, reason)


def _shown(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
