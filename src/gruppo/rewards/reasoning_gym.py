"""The reward of `reasoning-gym` tasks: the task's own verifier on the answer that a completion states.

The stated answer is what stands in the last whole `<answer>...</answer>` (one that isn't closed is no answer); where
there is no such tag, after the last `####`; failing both, all of the text after the last `</think>`. White space around
it is left out.

1. The verifiers grade: many give len(answer) / len(text) to a text that contains the answer somewhere. Hence only the
   stated answer is shown to them, and a completion passes at 1 alone. `partial=False` makes every other score 0.
2. Some verifiers evaluate what they are given (sympy's parser, in games and algebra), and any may be slow. This reward
   belongs into a process that can be killed and is shut in, not into the trainer.
3. Whatever a verifier raises is a score of 0 with the reason. A stated answer of more than 8,192 characters is refused.
4. The verifiers are taken as they are: that of `game_of_life_halting`, for one, gives 1 to any text that isn't "True"
   where the answer is "False". `gruppo reward test` shows such.
5. Verifiers see the configuration of the task at its level, or the authors' own; a few use it.
"""

import functools
from collections.abc import Mapping
from typing import Any

from gruppo.data.tasks import import_reasoning_gym, make_dataset
from gruppo.rewards.result import RewardResult

_TAIL = 16_384
_LONGEST = 8_192


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
