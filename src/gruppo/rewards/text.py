"""Rewards for how a completion is written: repetition, reflection, keywords; with those of format, length and language.

All of them are total functions: any text gives a number in the range stated, in linear time. Of a long completion the
last 262,144 characters count (the format looks at all of it).

1. None of them knows whether the completion is right, and each can be earned without being right. Give them small
   weights beside a reward that knows.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gruppo.errors import ConfigError
from gruppo.rewards.format import format_reward
from gruppo.rewards.language import language_reward
from gruppo.rewards.length import length_reward
from gruppo.rewards.overlong import overlong_reward
from gruppo.rewards.reading import folded, spaced, words
from gruppo.rewards.result import RewardResult

__all__ = [
    "REFLECTION_PHRASES",
    "format_reward",
    "keywords_reward",
    "language_reward",
    "length_reward",
    "overlong_reward",
    "reflection_reward",
    "repetition_reward",
]

REFLECTION_PHRASES = (
    "wait",
    "hold on",
    "let me check",
    "let me double check",
    "let me double-check",
    "let me re-check",
    "let me recheck",
    "let me verify",
    "let me reconsider",
    "let me think again",
    "on second thought",
    "on reflection",
)

_LONGEST_NGRAM = 40
_MOST_KEYWORDS = 1000
_LONGEST_KEYWORD = 1000
_BETWEEN_KEYWORDS = re.compile(r"[,;\n]")


def repetition_reward(completion: str, *, ngram: int = 8) -> RewardResult:
    """Minus the share of n-grams of words that stood before: 0 where none repeats, near -1 in a loop; in [-1, 0].

    -(1 - distinct n-grams / n-grams). "Demystifying Long Chain-of-Thought Reasoning in LLMs",
    https://arxiv.org/abs/2502.03373, appendix C.2, punishes the tokens of repeated n-grams one by one; this is one
    number for the completion.

    >>> repetition_reward("no no no no no no", ngram=2).value
    -0.8

    Args:
        completion: any text.
        ngram: words in a row, 1 to 40. Ordinary prose repeats few runs of 4 words, calculations more.

    Raises:
        ConfigError: for an `ngram` out of range.
    """
    if not 1 <= ngram <= _LONGEST_NGRAM:
        raise ConfigError(f"repetition: ngram {ngram}; wanted 1 to {_LONGEST_NGRAM} words.")
    row = words(folded(completion))
    count = max(0, len(row) - ngram + 1)
    numbers: dict[str, int] = {}
    numbered = [numbers.setdefault(word, len(numbers)) for word in row]
    # Hashes (of numbers, so the same in every process) in place of the n-grams, which could fill the memory.
    distinct = len({hash(gram) for gram in zip(*(numbered[shift:] for shift in range(ngram)))})
    repeated = count - distinct
    reason = f"{repeated} of {count} runs of {ngram} words stood before" if count else f"fewer than {ngram} words"
    return RewardResult(-(repeated / count) if repeated else 0.0, {"repeated": repeated}, reason)


def reflection_reward(completion: str, *, phrases: Sequence[str] = REFLECTION_PHRASES, most: int = 3) -> RewardResult:
    """The share of `most` reflections that the completion has: min(count, most) / most, in [0, 1].

    **It is hacked easily**: it pays for the words and not for the checking, so a model learns to write "wait" three
    times. The bound keeps that small; keep its weight small too, and watch whether the success grows with it. "Wait" in
    a word problem ("they wait for 5 minutes") counts as well.

    >>> reflection_reward("7 * 8 = 54. Wait, let me re-check: 56.").parts
    {'reflections': 2}

    Args:
        completion: any text.
        phrases: what counts, as whole words in any case.
        most: reflections beyond this many earn nothing, 1 or more.

    Raises:
        ConfigError: for no phrase, or `most` below 1.
    """
    if most < 1:
        raise ConfigError(f"reflection: most {most}; wanted 1 or more.")
    found = _phrases(tuple(phrases)).findall(spaced(completion))
    shown = ", ".join(dict.fromkeys(found[:most]))
    reason = f"{len(found)} reflections, {most} count{f' ({shown})' if shown else ''}; words are paid for, not checking"
    return RewardResult(min(len(found), most) / most, {"reflections": len(found)}, reason)


@functools.lru_cache(maxsize=64)
def _phrases(phrases: tuple[str, ...]) -> re.Pattern[str]:
    known = sorted({spaced(phrase).strip() for phrase in phrases} - {""}, key=len, reverse=True)
    if not known:
        raise ConfigError("reflection: no phrases; leave `phrases` out for the usual ones.")
    return re.compile(f"(?<= )(?:{'|'.join(map(re.escape, known))})(?= )")


def keywords_reward(completion: str, keywords: Any) -> RewardResult | None:
    """The share of the problem's keywords that the completion cites as whole words, in any case; in [0, 1].

    None (does not apply) where the problem has no keywords. Listing words that might be keywords earns them all: take
    it with a reward that asks for more.

    >>> keywords_reward("Die Straße nach Rom", "STRASSE, Paris").value
    0.5

    Args:
        completion: any text.
        keywords: the column `keywords`: a list, or text with commas, semicolons or line ends between them; the first
            1,000 count.
    """
    wanted = {spaced(keyword, _LONGEST_KEYWORD): keyword for keyword in _keywords(keywords)}
    wanted.pop("  ", None)
    if not wanted:
        return None
    text = spaced(completion)
    missing = [keyword for key, keyword in wanted.items() if key not in text]
    cited = len(wanted) - len(missing)
    shown = ", ".join(keyword[:30] for keyword in missing[:3])
    reason = f"{cited} of {len(wanted)} keywords{f'; not: {shown}' if shown else ''}"
    return RewardResult(cited / len(wanted), {"cited": cited, "wanted": len(wanted)}, reason)


def _keywords(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
        items = [str(item) for item in value if item is not None]
    else:
        items = _BETWEEN_KEYWORDS.split(str(value))
    return [item.strip() for item in items[:_MOST_KEYWORDS] if item.strip()]
