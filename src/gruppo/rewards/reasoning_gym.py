"""The reward of `reasoning-gym` tasks: the task's own verifier on the answer that a completion states.

The stated answer is what stands in the last whole `<answer>...</answer>` (one that isn't closed is no answer); where
there is no such tag, after the last `####`; failing both, all of the text after the last `</think>`. White space around
it is left out.

1. The verifiers grade: many give len(answer) / len(text) to a text that contains the answer somewhere. Hence only the
   stated answer is shown to them, and a completion passes at 1 alone. `partial=False` makes every other score 0.
2. In version 0.1.25 nine verifiers run what they are given as Python (by `eval`, or by sympy's parser, which calls it):
   a completion could do there what the trainer may. So these nine are shown only a plain list, sum or formula; anything
   else scores 0. A formula with an unevaluated `Integral` is refused too: written down, it solves every integral.
   (About a tenth of the package's own answers to `intermediate_integration` hold one, and are refused with it.)
3. Verifiers may be slow, and the screen may have a hole: in a run they are called in a fork of a worker, which is
   killed at its limit and on Linux can compute and read files but write none, start nothing and reach no network.
   Two more run the problem's own data, so read saved rows only from whom you would take a program.
4. Whatever a verifier raises is a score of 0 with the reason. A stated answer of more than 8,192 characters is refused.
5. The verifiers are taken as they are: that of `game_of_life_halting`, for one, gives 1 to any text that isn't "True"
   where the answer is "False". They see the configuration of the task at its level, or the authors' own; a few use it.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

from gruppo.data.tasks import import_reasoning_gym, make_dataset
from gruppo.rewards.result import RewardResult

EVALUATED_LISTS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Tasks whose verifiers run the answer as a Python list."""
EVALUATED_SUMS = frozenset({"countdown", "puzzle24"})
"""Tasks whose verifiers run the answer as a sympy formula, where numbers and four operators are all it needs."""
EVALUATED_FORMULAS = frozenset({"intermediate_integration", "polynomial_multiplication", "simple_integration"})
"""Tasks whose verifiers run the answer as a sympy formula."""

_TAIL = 16_384
_LONGEST = 8_192
_LONGEST_FORMULA = 512
# No call, no attribute and no operator can be written with these.
_LIST = re.compile(r"[\[\]\w\s,'\"-]*")
_SUM = re.compile(r"(?!.*\*\s*\*)[0-9\s+\-*/().]*", re.DOTALL)
_FORMULA = re.compile(r"[0-9A-Za-z\s+\-*/^().,]*")
_ATTRIBUTE = re.compile(r"[A-Za-z)]\s*\.|\.\s*[A-Za-z(]")
_LARGE_POWER = re.compile(
    r"(?:\*\*|\^)[\s(+-]*[0-9]{3}|\)\s*(?:\*\*|\^)[\s(+-]*[0-9]{2}"
    r"|(?:\*\*|\^)[\s(+-]*[\w.]+[\s)]*(?:\*\*|\^)"
    r"|[0-9][eE][+-]?[0-9]{3}"
)
_BRACKETS = re.compile(r"[A-Za-z]{2,}\s*\(|[()]")
_DEEPEST, _MOST_CALLS = 2, 12
_WORD = re.compile(r"[A-Za-z]{2,}")
_FUNCTIONS = frozenset({
    "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln",
    "sqrt", "Abs", "pi",
})  # fmt: skip


def reasoning_gym_reward(
    completion: str,
    metadata: Mapping[str, Any],
    question: str = "",
    answer: str | None = None,
    level: int | None = None,
    *,
    partial: bool = True,
    strict: bool = False,
) -> RewardResult:
    """The verifier's score of the stated answer, from 0 to 1.

    Args:
        completion: what the model wrote.
        metadata: the item's, with the task's name under `source_dataset`.
        question: the item's.
        answer: the item's; None where the verifier needs none.
        level: of the task's curriculum; None: the authors' own difficulty.
        partial: whether scores between 0 and 1 count.
        strict: whether only an answer in `<answer>` tags counts.

    Raises DataError where the package is missing.
    """
    name = str(metadata.get("source_dataset"))
    stated, how = _stated(completion)
    if stated is None or (strict and how != "in tags"):
        return RewardResult(0.0, reason="no answer in <answer> tags" if strict else "no answer")
    if len(stated) > _LONGEST:
        return RewardResult(0.0, reason=f"an answer of {len(stated)} characters")
    if not _harmless(name, stated):
        return RewardResult(0.0, reason=f"{how}: {_clip(stated)}; no plain answer, and the verifier would run it")
    import_reasoning_gym(f"the reward of '{name}'")
    entry = {"question": question, "answer": answer, "metadata": dict(metadata)}
    try:
        score = float(_dataset(name, level).score_answer(stated, entry))
    except Exception as error:  # verifiers raise what they like for text that is no answer
        return RewardResult(0.0, reason=f"{how}: {_clip(stated)}; the verifier raised {type(error).__name__}")
    if not 0.0 <= score <= 1.0:
        return RewardResult(0.0, reason=f"the verifier of '{name}' returned {score}")
    value = score if partial or score == 1.0 else 0.0
    return RewardResult(value, {"graded": score}, f"{how}: {_clip(stated)}")


@functools.lru_cache(maxsize=128)
def _dataset(name: str, level: int | None) -> Any:
    return make_dataset(name, 1, 0, level)


def _harmless(name: str, stated: str) -> bool:
    """Whether an answer is plain enough for its task's verifier."""
    if name in EVALUATED_LISTS:
        return _LIST.fullmatch(stated) is not None
    if name in EVALUATED_SUMS:
        return _SUM.fullmatch(stated) is not None and len(stated) <= _LONGEST_FORMULA
    if name not in EVALUATED_FORMULAS:
        return True
    words = set(_WORD.findall(stated))
    plain = _FORMULA.fullmatch(stated) is not None and words <= _FUNCTIONS and len(stated) <= _LONGEST_FORMULA
    return plain and not (_ATTRIBUTE.search(stated) or _LARGE_POWER.search(stated) or _deep(stated))


def _deep(formula: str) -> bool:
    """Whether functions are nested more than twice, or are more than a handful: sympy simplifies for ever."""
    calls, inside, found = 0, 0, 0
    opened: list[bool] = []
    for match in _BRACKETS.finditer(formula):
        if match[0] == ")":
            inside -= opened.pop() if opened else False
            continue
        called = len(match[0]) > 1
        opened.append(called)
        calls, inside = calls + called, inside + called
        found = max(found, inside)
    return found > _DEEPEST or calls > _MOST_CALLS


def _stated(completion: str) -> tuple[str | None, str]:
    """The stated answer, and where it stands."""
    text = completion[-_TAIL:]
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    if start >= 0:
        return _stripped(text[start + len("<answer>") : end]), "in tags"
    if "<answer>" in text:
        return None, "in tags"
    if "####" in text:
        return _stripped(text.rpartition("####")[2]), "after ####"
    return _stripped(text.rpartition("</think>")[2]), "all of the text"


def _stripped(text: str) -> str | None:
    return text.strip() or None


def _clip(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else text[:57] + "...")
