"""The math reward: is the answer that a completion states equal to the reference answer?

The stated answer is what stands after the last `####` on its line or in the last whole `\\boxed{}`, whichever
comes later; failing both, what follows the last "the answer is". The reference is read likewise, else it is
all of the text. Equal texts and plain numbers are decided here; anything else goes to math-verify.

1. Only the last 16,384 characters of a completion are looked at.
2. Numbers are compared exactly as fractions; where one is no integer, a difference of up to 5e-7 counts as
   equal, as math-verify rounds to 6 decimals. Thousands commas, currency, per cent, degrees and a unit of at
   most three words are left out: "50%" equals "50" and not "0.5".
3. sympy can hang on hostile input, and no time limit within the process can stop it. So answers are refused (score 0,
   with the reason) that are longer than 256 characters, or have stacked or large powers, large roots, factorials,
   sums, integrals, limits, long numbers, several or nested functions, or many brackets. An answer that is word for
   word the reference is right all the same. Of the 7,469 answers of MATH's training set 9 are refused so. The screen
   is a precaution and no proof: 3,574 made expressions that passed it took 1.5 s at most.
4. math-verify runs without its own time limits: their signals fail outside the main thread.
"""

import functools
import logging
import re
from fractions import Fraction
from typing import Any

from gruppo.rewards.result import RewardResult

_TAIL = 16_384
_LONGEST = 256
_TOLERANCE = Fraction(5, 10_000_000)

_TOKENS = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_ANSWER_IS = re.compile(r"\banswer\s+is\b\s*:?", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|\n")
_NOTHING = re.compile(r"\\[!,;: ]|\\left|\\right|\\\$|\\%|[$%°]|\^\{?\\circ\}?|\\(?:text|mathrm|textbf)(?=\{)")
_FRACTION = re.compile(r"\\[dt]?frac\{([0-9]{1,40})\}\{([0-9]{1,40})\}|\\[dt]?frac([0-9])([0-9])")
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*"
    r"(?:(?P<top>[0-9]{1,40})\s*/\s*(?P<bottom>[0-9]{1,40})"
    r"|(?P<whole>[0-9]{1,3}(?:,[0-9]{3}){1,12}|[0-9]{0,40})(?P<decimals>\.[0-9]{0,40})?)"
    r"(?P<unit>\s*[({]?\s*[A-Za-z][A-Za-z.'/-]*(?:\s+[A-Za-z][A-Za-z.'/-]*){0,2}(?:\^\{?[23]\}?)?\s*[)}]?)?"
)
_UNIT_IN_BRACKETS = re.compile(r"(?<=[0-9])\s+\([A-Za-z][A-Za-z .,'/-]*\)\s*$")
_NO_UNIT = re.compile(
    r"\b(?:[a-z]|pi|am|a\.m|pm|p\.m|or|and|not|times|to|hundred|thousand|million|billion|trillion|dozen|half"
    r"|sqrt|sin|cos|tan|log|ln|exp)\b",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[A-Za-z .,'-]{2,}")

_HOSTILE: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a factorial", re.compile(r"!|factorial|[Gg]amma")),
    ("a large root", re.compile(r"\\sqrt\s*\[(?!\s*(?:[0-9]|[a-z])\s*\])|\\sqrt.*\\begin|\\begin.*\\sqrt", re.DOTALL)),
    ("a number of more than 40 digits", re.compile(r"[0-9]{41,}")),
    ("a sum, product, integral, limit or binomial",
     re.compile(r"\\(?:sum|prod|i*int|oint|lim|[dt]?binom|choose|mod|bmod|pmod)|lambda")),
)  # fmt: skip
_BRACKET = re.compile(r"[({\[]")
_MOST_BRACKETS = 24
_LARGEST_EXPONENT = 1000
_LARGEST_OF_GROUP = 13
_LARGE_NUMBER = re.compile(r"[0-9]{3}$")
_FUNCTION = re.compile(r"sin|cos|tan|sec|csc|cot|log|ln|exp")
_NUMBER_TOO_LONG = re.compile(r"[0-9]{4}|(?:log|ln|exp).*[0-9]{3}|[0-9]{3}.*(?:log|ln|exp)", re.DOTALL)
_MOST_FUNCTIONS = 2
_GROUP_TO_A_POWER = re.compile(r"[)}\]]\s*\^")
_EXPONENT = re.compile(r"\s*(-?[0-9]+|[A-Za-z]|\\[A-Za-z]+)")
_CLOSING = {")": "(", "}": "{", "]": "["}


def math_reward(completion: str, answer: str) -> RewardResult:
    """1 where the completion's stated answer equals the reference answer, else 0, with the reason.

    A total function: any two strings give a score.
    """
    gold = reference_answer(answer)
    stated = stated_answer(completion)
    if stated is None:
        return RewardResult(0.0, reason="no answer found")
    equal, reason = _compare(gold, stated)
    return RewardResult(1.0 if equal else 0.0, reason=reason)


def reference_answer(text: str) -> str:
    """The answer in a reference: after `####`, in the last `\\boxed{}`, or all of it."""
    marked = _marked(text)
    return text.strip() if marked is None else marked


def stated_answer(completion: str) -> str | None:
    """The answer that a completion states, or None."""
    text = completion[-_TAIL:]
    marked = _marked(text)
    if marked is not None:
        return marked
    ends = [match.end() for match in _ANSWER_IS.finditer(text)]
    if not ends:
        return None
    return _tidy(_SENTENCE_END.split(text[ends[-1] :].lstrip(), maxsplit=1)[0]) or None


def _marked(text: str) -> str | None:
    """What the last `####` or whole box marks as the answer; an empty one is none."""
    box = _last_box(text)
    position = text.rfind("####")
    if position >= 0 and (box is None or position >= box[1]):
        line = text[position + 4 :].lstrip(" \t#").split("\n", 1)[0]
        inner = _last_box(line)
        return _tidy(line if inner is None else inner[0]) or None
    return None if box is None else (_tidy(box[0]) or None)


def _last_box(text: str) -> tuple[str, int] | None:
    """Content and end of the box that closes last, unwrapped; an unclosed box is none. One pass over the text."""
    stack: list[int | None] = []
    found: tuple[int, int] | None = None
    for token in _TOKENS.finditer(text):
        if token[0] == "}":
            start = stack.pop() if stack else None
            if start is not None and (found is None or not _inside(found, start)):
                found = (start, token.start())
        elif token[0] == "{":
            stack.append(None)
        elif token[0].endswith("{") and len(token[0]) > 2:
            stack.append(token.end())
    return None if found is None else (text[found[0] : found[1]], found[1])


def _inside(inner: tuple[int, int], start: int) -> bool:
    """Whether a box found lies within the one that starts here: of nested boxes the inner one counts."""
    return inner[0] > start


def _tidy(text: str) -> str:
    text = text.strip().strip("*").strip()
    return text.removesuffix(".").strip() if not text.endswith("..") else text


def _compare(gold: str, stated: str) -> tuple[bool, str]:
    if _plain(gold) == _plain(stated):
        return True, f"{_shown(stated)} is the reference"
    numbers = _number(gold), _number(stated)
    if numbers[0] is not None and numbers[1] is not None:
        equal = _equal_numbers(numbers[0], numbers[1])
        return equal, f"{_shown(stated)} {'equals' if equal else 'is not'} {_shown(gold)}"
    for text, whose in ((stated, "the answer"), (gold, "the reference")):
        hostile = _hostile(text)
        if hostile:
            return False, f"{whose} has {hostile}, which is not evaluated"
    equal = _verify(gold, stated)
    return equal, f"{_shown(stated)} {'equals' if equal else 'is not'} {_shown(gold)}"


def _shown(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _plain(text: str) -> str:
    """The text without what only concerns its look; words alone also without their case."""
    text = _NOTHING.sub("", text).replace("{,}", ",").replace("dfrac", "frac").replace("tfrac", "frac")
    text = _tidy(text)
    if text.startswith("{") and text.endswith("}") and _WORDS.fullmatch(text[1:-1]):
        text = text[1:-1]
    return " ".join(text.casefold().split()) if _WORDS.fullmatch(text) else "".join(text.split())


def _number(text: str) -> Fraction | None:
    """The number that a text is, its unit left out, or None."""
    if len(text) > _LONGEST:
        return None
    text = _NOTHING.sub("", text.replace("\N{MINUS SIGN}", "-").replace("{,}", ","))
    text = _UNIT_IN_BRACKETS.sub("", text)
    text = _FRACTION.sub(lambda match: f"{match[1] or match[3]}/{match[2] or match[4]}", text)
    match = _NUMBER.fullmatch(_tidy(text))
    if match is None or (match["unit"] is not None and _NO_UNIT.search(match["unit"])):
        return None
    sign = -1 if match["sign"] == "-" else 1
    if match["top"] is not None:
        return sign * Fraction(int(match["top"]), int(match["bottom"])) if int(match["bottom"]) else None
    digits = match["whole"].replace(",", "") + (match["decimals"] or "")
    return sign * Fraction(digits) if digits.strip(".") else None


def _equal_numbers(gold: Fraction, stated: Fraction) -> bool:
    if gold == stated or (gold.denominator == 1 and stated.denominator == 1):
        return gold == stated
    return abs(gold - stated) <= _TOLERANCE


def _hostile(text: str) -> str:
    """What in a text might hang sympy, or nothing."""
    if len(text) > _LONGEST:
        return f"more than {_LONGEST} characters"
    text = text.replace("\\!", "").replace("**", "^")
    for what, pattern in _HOSTILE:
        if pattern.search(text):
            return what
    ends = _matching(text)
    functions = _hostile_functions(text, ends)
    if functions:
        return functions
    if len(_BRACKET.findall(text)) > _MOST_BRACKETS:
        return f"more than {_MOST_BRACKETS} brackets"
    starts = {end: start for start, end in ends.items()}
    powers = (_hostile_power(text, index, ends, starts) for index, sign in enumerate(text) if sign == "^")
    return next((what for what in powers if what), "")


def _hostile_functions(text: str, ends: dict[int, int]) -> str:
    """What is wrong with the functions in a text, or nothing. sympy turns 999 ln 10 into the logarithm of 10^999."""
    functions = list(_FUNCTION.finditer(text))
    if len(functions) > _MOST_FUNCTIONS or (functions and "\\begin" in text):
        return f"more than {_MOST_FUNCTIONS} functions, or one in a matrix"
    if functions and _NUMBER_TOO_LONG.search(text):
        return "a long number beside a function"
    for function in functions:
        opening = _BRACKET.search(text, function.end())
        if opening and _FUNCTION.search(text, opening.start(), ends.get(opening.start(), len(text))):
            return "a function in a function"
    return ""


def _hostile_power(text: str, at: int, ends: dict[int, int], starts: dict[int, int]) -> str:
    """What is wrong with the power whose sign is at this index, or nothing."""
    begin = at + 1 + len(text[at + 1 :]) - len(text[at + 1 :].lstrip())
    if begin in ends:
        exponent, after = text[begin + 1 : ends[begin]], ends[begin] + 1
    else:
        match = _EXPONENT.match(text, at + 1)
        if match is None:
            return "a power without an exponent"
        exponent, after = match[1], match.end()
    if "^" in exponent or text[after:].lstrip().startswith("^"):
        return "a stacked power"
    size = 1
    for digits in re.findall(r"[0-9]+", exponent):
        size *= max(1, int(digits))
    end = len(text[:at].rstrip()) - 1
    base = text[starts[end] : end] if end in starts else ""
    large_base = base or _LARGE_NUMBER.search(text[:at].rstrip())
    if size >= (_LARGEST_OF_GROUP if large_base else _LARGEST_EXPONENT):
        return "a large power"
    if "^" in base and (size > 4 or _GROUP_TO_A_POWER.search(base)):
        return "a stacked power"
    return ""


def _matching(text: str) -> dict[int, int]:
    """Where each bracket that opens is closed."""
    stack: list[int] = []
    ends: dict[int, int] = {}
    for index, sign in enumerate(text):
        if sign in "({[":
            stack.append(index)
        elif sign in _CLOSING and stack and text[stack[-1]] == _CLOSING[sign]:
            ends[stack.pop()] = index
    return ends


def _verify(gold: str, stated: str) -> bool:
    """What math-verify says; False for what it can't parse."""
    from math_verify import verify

    try:
        return bool(verify(_parsed_gold(gold), _parse(stated), timeout_seconds=None))
    except Exception:  # a parser of arbitrary text: whatever goes wrong, the texts are not known to be equal
        return False


@functools.lru_cache(maxsize=4096)
def _parsed_gold(text: str) -> Any:
    return _parse(text)


def _parse(text: str) -> Any:
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    wanted = [math_verify.LatexExtractionConfig(boxed_match_priority=0), math_verify.ExprExtractionConfig()]
    return math_verify.parse(f"\\boxed{{{text}}}", wanted, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
