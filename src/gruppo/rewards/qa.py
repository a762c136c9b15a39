r"""The reward for short answers: is what the completion states one of the accepted answers?

Where the answer is read (the last 16,384 characters of what follows the reasoning):

1. the text after the last reasoning tag that closes; where the reasoning never ends, there is no answer;
2. in it, the last `<answer>...</answer>`, where there is one;
3. in that, the last whole `\boxed{}` or the line after the last `####`, whichever comes later;
4. failing those, what follows the last "the answer is", "answer:" on its line: all of the line, or as far as the end of
   a sentence (with three words or more behind it) or "because", "since";
5. failing that, all of the `<answer>`, or else the last line, if it has at most 20 words.

How answers are compared:

1. As a whole, in the one form that `gruppo.rewards.answers` describes (case, punctuation, accents, articles, numbers,
   dates). So a completion that lists every possible answer is wrong: "Paris or London" is not "Paris".
2. A list is right where each of its items is an accepted answer ("Bobby Scott and Bob Russell").
3. `aliases` are groups of names for the same thing, each whole answers: `[[United States, USA, America]]`.
4. Token F1 is SQuAD's with that form in place of SQuAD's. It pays for words in common: a few candidates in a row still
   share words with the right one. Take `exact` where that matters.
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from gruppo.errors import ConfigError
from gruppo.rewards.answers import normal, token_f1
from gruppo.rewards.reading import ANSWER_TAIL, final_part, last_box, last_tagged
from gruppo.rewards.result import RewardResult

QaMode = Literal["exact", "f1", "levels"]
Names = tuple[tuple[str, ...], ...]
"""Groups of names for the same thing."""

_MOST_ACCEPTED = 1000
_LAST_LINE = 400
_LAST_LINE_WORDS = 20
_ANSWER_IS = re.compile(
    r"\banswers?(?:\s{1,3}to\s[^.:\n]{1,200}?)?[\s*_]{0,5}(?:\b(?:is|are|was|would be|should be)\b|:|=)[\s*_:]{0,8}",
    re.IGNORECASE,
)
_CUT = re.compile(r"[.!?](?=\s|$)|,?\s(?:because|since)\s", re.IGNORECASE)
_MOST_CUTS = 8
_BETWEEN = re.compile(r"\s{0,3}[,;]\s{0,3}(?:and\s)?|\s(?:and|&)\s", re.IGNORECASE)


def qa_reward(
    completion: str,
    answer: Any,
    answers: Any = None,
    *,
    mode: QaMode = "exact",
    levels: tuple[float, float, float] = (1.0, 0.5, 0.0),
    partial_at: float = 0.5,
    aliases: Sequence[Sequence[str]] = (),
) -> RewardResult | None:
    """How well the stated answer agrees with the accepted ones; None (does not apply) where there are none.

    exact: 1 or 0. f1: the best token F1, in [0, 1]. levels: the first of `levels` where the answer is right, the second
    where its token F1 is at least `partial_at`, else the third. Parts: `exact` and `f1`, whatever the mode.

    >>> qa_reward("<think>hm</think>The answer is the 5th of March, 1999.", ["1999-03-05"]).value
    1.0
    >>> qa_reward("Answer: Neil Alden Armstrong", "Neil Armstrong", mode="f1").value
    0.8

    Args:
        completion: any text.
        answer: an accepted answer, or a list of them.
        answers: the column `answers`: all accepted answers where the data has a list of them.
        mode: `exact`, `f1` or `levels`.
        levels: for right, partly right and wrong answers; any numbers.
        partial_at: the token F1 from which an answer is partly right.
        aliases: groups of names for the same thing.

    Raises:
        ConfigError: for a mode or levels that are none.
    """
    if mode not in ("exact", "f1", "levels") or len(levels) != 3:
        raise ConfigError(
            f"qa: mode {mode!r}, levels {levels}: wanted exact, f1 or levels, and three numbers: right, partly right, "
            "wrong, such as [1, 0.5, 0]."
        )
    accepted = _accepted(tuple(dict.fromkeys([*_texts(answer), *_texts(answers)]))[:_MOST_ACCEPTED], _groups(aliases))
    if not accepted:
        return None
    stated = stated_answers(completion)
    exact, f1, shown = _best(stated, accepted, _groups(aliases))
    right, partial, wrong = levels
    value = {"exact": float(exact), "f1": f1, "levels": right if exact else partial if f1 >= partial_at else wrong}[
        mode
    ]
    if not stated:
        reason = "no answer found"
    elif exact:
        reason = f"'{shown}' is accepted"
    else:
        reason = f"'{shown}' is none of the {len(accepted)} accepted answers; token F1 {f1:.2f}"
    return RewardResult(value, {"exact": float(exact), "f1": f1}, reason)


def qa_levels_warning(levels: Sequence[float]) -> str | None:
    """What is odd about the order of the levels for right, partly right and wrong answers, or None.

    >>> qa_levels_warning((1.0, 0.5, 0.0))
    >>> qa_levels_warning((1.0, -0.5, 0.0))
    'levels: partly right (-0.5) ranks below wrong (0): the model learns to be rather wrong than partly right. ...'
    """
    right, partial, wrong = levels
    shown = f"[{right:g}, {max(partial, wrong):g}, {min(partial, wrong):g}]"
    if right <= max(partial, wrong):
        return (
            f"levels: right ({right:g}) ranks no higher than partly right ({partial:g}) or wrong ({wrong:g}): nothing "
            "pulls the model towards right answers. The order is right, partly right, wrong."
        )
    if partial < wrong:
        return (
            f"levels: partly right ({partial:g}) ranks below wrong ({wrong:g}): the model learns to be rather wrong "
            f"than partly right. If that is not meant, take {shown}."
        )
    return None


def stated_answers(completion: str) -> tuple[str, ...]:
    """The readings of the answer that a completion states; none where it states none.

    >>> stated_answers("So the answer is: **Dr. Seuss**, because he wrote it")
    ('Dr. Seuss**, because he wrote it', 'Dr. Seuss**')
    """
    final = final_part(completion)
    if final is None:
        return ()
    text = final[-ANSWER_TAIL:]
    tagged = last_tagged(text, "answer")
    text = text if tagged is None else tagged
    marked = _marked(text)
    if marked is not None:
        return (marked,) if marked.strip() else ()
    phrases = list(_ANSWER_IS.finditer(text))
    if phrases:
        line = text[phrases[-1].end() :].strip().split("\n", 1)[0]
        return tuple(_readings(line)) if line else ()
    if tagged is not None:
        return (tagged.strip(),) if tagged.strip() else ()
    line = text.rstrip()[-_LAST_LINE - 1 :].rsplit("\n", 1)[-1].strip()
    short = line and len(line) <= _LAST_LINE and len(line.split()) <= _LAST_LINE_WORDS
    return (line,) if short else ()


def _marked(text: str) -> str | None:
    """What the last box or `####` marks as the answer, whichever comes later."""
    box = last_box(text)
    line = text.rfind("####")
    if line >= 0 and (box is None or box[1] < line):
        return text[line:].lstrip("# \t").split("\n", 1)[0]
    return None if box is None else box[0]


def _readings(line: str) -> Iterator[str]:
    """The line, and as much of it as might be meant."""
    yield line
    cuts = list(_CUT.finditer(line))[:_MOST_CUTS]
    for cut in cuts:
        rest = line[cut.end() :]
        sentence = _CUT.split(rest, maxsplit=1)[0]
        if cut.start() and (not rest.strip(" *_") or len(sentence.split()) >= 3):
            yield line[: cut.start()]


def _best(stated: Sequence[str], accepted: frozenset[tuple[str, ...]], groups: Names) -> tuple[bool, float, str]:
    """Whether a reading is accepted, the best F1, and the reading to show."""
    names = _names(groups)
    best, shown = 0.0, stated[-1] if stated else ""
    for text in stated:
        if _one(text, names) in accepted:
            return True, 1.0, _brief(text)
        items = _BETWEEN.split(text[:_LAST_LINE])
        if len(items) > 1 and all(_one(item, names) in accepted for item in items):
            return True, 1.0, _brief(text)
        f1 = max(token_f1(_one(text, names), other) for other in accepted)
        if f1 > best:
            best, shown = f1, text
    return False, best, _brief(shown)


def _brief(text: str) -> str:
    text = " ".join(text[:200].split())
    return text if len(text) <= 60 else text[:57] + "..."


def _texts(value: Any) -> list[str]:
    """The accepted answers in a cell: text, a list (also as JSON), or the mappings of SQuAD and TriviaQA."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
        return _texts(parsed) if parsed and all(isinstance(item, str) for item in parsed) else [value]
    if isinstance(value, Mapping):
        return [text for name in ("text", "value", "aliases") for text in _texts(value.get(name))]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in ([item] if isinstance(item, str) else _texts(item))]
    return [] if value is None or value != value else [str(value)]


def _one(text: str, names: Mapping[tuple[str, ...], tuple[str, ...]]) -> tuple[str, ...]:
    """The answer in its one form; where nothing is left of it (`?`), the text itself."""
    row = normal(text) or tuple(text.split())
    return names.get(row, row)


def _groups(aliases: Sequence[Sequence[str]]) -> Names:
    return tuple(tuple(group) for group in aliases)


@functools.lru_cache(maxsize=16)
def _names(groups: Names) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Every name in its one form, with the first of its group."""
    return {normal(name): normal(group[0]) for group in groups for name in group if normal(name)}


@functools.lru_cache(maxsize=4096)
def _accepted(texts: tuple[str, ...], groups: Names) -> frozenset[tuple[str, ...]]:
    names = _names(groups)
    return frozenset(_one(text, names) for text in texts) - {()}
