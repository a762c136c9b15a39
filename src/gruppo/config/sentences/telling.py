"""How a sentence's words are told back to the person who wrote them."""

import difflib
from typing import Any

from gruppo.config.reference import options
from gruppo.config.sentences.names import bag
from gruppo.config.sentences.words import GLUE, VERBS, Words

_MEANT = sorted(
    {word for word in GLUE | VERBS if len(word) > 3}
    | bag(
        """math reasoning model steps completions learning rate group size problems questions temperature prompts based
        coding evaluate reward correct function iterations dataset"""
    )
)
"""What a mistyped word may have been."""
_HINTS = {
    "ppo": "gruppo trains with GRPO and its relatives: dapo, dr-grpo, gspo, cispo, rloo, reinforce",
    "dpo": "gruppo trains on problems that can be checked, not on preferences",
    "rlhf": "gruppo trains on problems that can be checked; a reward model is the reward `model`",
    "sft": "an SFT stage before GRPO is --sft.data FILE",
    "vllm": "the local engine samples; there is no other yet",
    "or": "one of them has to be said",
    "hours": "a run is as long as its steps",
    "tokens": "of the completion (max_completion_length), or of the prompt (max_prompt_length)?",
    "fp16": "precision is float32 or bfloat16",
    "float16": "precision is float32 or bfloat16",
}


def left_over_question(words: Words, left: list[int]) -> str:
    """What to say of words that were not understood: neighbours together, each with a hint where there is one."""
    groups: list[list[int]] = []
    for index in left:
        if groups and index == groups[-1][-1] + 1:
            groups[-1].append(index)
        else:
            groups.append([index])
    what = ", ".join(f"'{words.text(group)}'{_hint(words, group)}" for group in groups)
    return f"not understood: {what}. Say it in other words, give it as a flag, or leave it out"


def _hint(words: Words, group: list[int]) -> str:
    """What to do about a word that is known, or a nearer one for one that is mistyped."""
    spoken = [words.tokens[index].text for index in group]
    known = next((_HINTS[word] for word in spoken if word in _HINTS), None)
    if known is not None:
        return f" ({known})"
    close = difflib.get_close_matches(spoken[0], _MEANT, n=1, cutoff=0.8) if len(spoken[0]) > 3 else []
    return f" (did you mean '{close[0]}'?)" if close and close[0] not in spoken else ""


def yours(words: str) -> str:
    """The words turned to the one who is asked: "using my model" is "your model"."""
    leading = ("using", "with", "from", "use", "on", "of", "take", "to")
    turned = {"my": "your", "our": "your", "i": "you", "we": "you"}
    kept = [word for word in words.split() if word.lower() not in leading]
    return " ".join(turned.get(word.lower(), word) for word in kept).rstrip(".,")


def quoted(values: list[str]) -> str:
    """'a' and 'b'."""
    return " and ".join(f"'{value}'" for value in values)


def whole(value: Any) -> Any:
    """A whole number as one, so that a file says 300."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def typed(option: str, value: Any) -> Any:
    """A flag's text as what its option is, so that a file says 300 and not "300"."""
    kind = next(known.type for known in options() if known.name == option)
    if not isinstance(value, str) or kind not in ("INT", "NUMBER", "true|false"):
        return value
    if kind == "true|false":
        return value.lower() == "true" if value.lower() in ("true", "false") else value
    try:
        return whole(float(value))
    except ValueError:
        return value  # the schema says what is wrong with it
