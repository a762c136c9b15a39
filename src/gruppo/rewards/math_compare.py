"""Is a stated answer equal to the reference? Decided here where texts, numbers, letters and their structure suffice.

`equal` takes an answer apart (tuples, intervals, sets, lists, unions, matrices) and compares part with part. What is
left are pairs of expressions, for `judge` to compare (math-verify in a worker process). Without a judge the result
is None where one is needed. Everything but the judge is linear in the texts, up to sorting, and total.

1. Structure decides first, as math-verify reads `(2,-1)` as an empty interval that equals every other such.
2. A number is equal to one number only: a stated list, "3 or 4", "1 2 3" or "3 = 4" is none.
3. Tuples of two need the same brackets (they may be intervals); longer ones any. A list without brackets is a set.
4. Ratios and times ("3:4", "3:30 p.m.") are compared part by part, so 6:8 is not 3:4; a stated p.m. must agree.
5. A base may be left out, as a unit may ("1001" for "1001_2"); another base is wrong.
"""

import re
from collections.abc import Callable, Iterable

from gruppo.rewards.math_extract import is_prose, tidy, undelimited
from gruppo.rewards.math_numbers import number, same
from gruppo.rewards.math_shapes import Shape, shape, sides

Judge = Callable[[str, str], bool]
"""Whether two expressions (reference, stated) are equal."""

_SIGNS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{MULTIPLICATION SIGN}": "\\times ",
        "\N{MIDDLE DOT}": "\\cdot ",
        "\N{DIVISION SIGN}": "/",
        "\N{GREEK SMALL LETTER PI}": "\\pi ",
        "\N{INFINITY}": "\\infty ",
        "\N{LESS-THAN OR EQUAL TO}": "\\leq ",
        "\N{GREATER-THAN OR EQUAL TO}": "\\geq ",
        "\N{NOT EQUAL TO}": "\\neq ",
        "\N{UNION}": "\\cup ",
        "\N{ELEMENT OF}": "\\in ",
        "\N{PLUS-MINUS SIGN}": "\\pm ",
        "\N{GREEK SMALL LETTER THETA}": "\\theta ",
        "\N{SUPERSCRIPT TWO}": "^2",
        "\N{SUPERSCRIPT THREE}": "^3",
    }
)
_ROOT = re.compile(r"(?:√|(?<![\\A-Za-z])sqrt(?=\())\s*(?:\(([^()]*)\)|([0-9A-Za-z]+))")
_WRAPPED = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textrm|textit|mbox)\s*\{([^{}]*)\}")
_LOOK = re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![A-Za-z])|(?<!\\)\\[!,]")
_SPACE = re.compile(r"(?<!\\)\\[;: ]|\\q?quad(?![A-Za-z])|~|\s+")
_NOTHING = re.compile(r"\\\$|\\%|[$%°]|\^\{?\\circ\}?|\\(?:text|mathrm|textbf)(?=\{)")
_LOOSE = re.compile(r"\s+(?![0-9])|(?<![0-9\s])\s+")
_WORDS = re.compile(r"[A-Za-z][A-Za-z .,'\u2019-]*[A-Za-z.]")
_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)
_LETTER = re.compile(
    r"(?:(?:option|choice|answer)\s*:?\s*)?(?:\(([A-Ja-j])\)|([A-J])(?:[.):]|$))\s*(.*)", re.DOTALL | re.IGNORECASE
)
_LETTER_AGAIN = re.compile(r"\([A-Ja-j]\)|(?<!\w)[A-J](?:[.):]|$)|^or\b|^and\b")
_COLON = re.compile(
    r"([0-9]{1,12})\s*:\s*([0-9]{1,12})(?:\s*:\s*([0-9]{1,12}))?\s*(?:([ap])\.?\s?m\.?)?",
    re.IGNORECASE,
)
_RATIO = re.compile(r"([0-9]{1,12})\s*(?:/|\bto\b)\s*([0-9]{1,12})|\\frac\{?([0-9]{1,12})\}?\{?([0-9]{1,12})\}?")
_BASE = re.compile(r"(-?[0-9][0-9A-Za-z]*|-?[A-Z][0-9A-Z]*[0-9][0-9A-Z]*)_\{?([0-9]{1,3})\}?")
_LEFT_SIDE = re.compile(r"\\?[A-Za-z]{1,12}'?(?:_\{?\w{1,8}\}?)?(?:\([A-Za-z](?:,[A-Za-z])*\))?")
_IN = re.compile(r"^\\?[A-Za-z]{1,8}\s*\\in(?![A-Za-z])\s*")
_ABOUT = re.compile(r"\\approx|≈|\\simeq|\\doteq")
_RELATION = re.compile(r"[<>=]|\\(?:leq?|geq?|lt|gt|neq?)(?![A-Za-z])")
_SEVERAL = re.compile(r"[0-9]\s+[0-9]")
_DEPTH = 12
_MOST_PAIRS = 400


def equal(
    gold: str, stated: str, tolerance: float | None = None, judge: Judge | None = None, depth: int = 0
) -> bool | None:
    """Whether a stated answer equals the reference. None: a judge is needed, and there is none."""
    if gold == stated or plain(gold) == plain(stated):
        return True
    decided = _numbers(gold, stated, tolerance)
    if decided is not None:
        return decided
    gold, stated = canonical(gold), canonical(stated)
    for rule in (_texts, _letters, _colons, _bases):
        decided = rule(gold, stated)
        if decided is not None:
            return decided
    if depth >= _DEPTH:
        return False
    gold, stated = _rightsides(gold, stated)
    return _shapes(gold, stated, tolerance, judge, depth)


def plain(text: str) -> str:
    """A text without what only concerns its look; words alone also without their case."""
    if "\\" in text or "$" in text or "%" in text:
        text = _NOTHING.sub("", _LOOK.sub("", text)).replace("dfrac", "frac").replace("tfrac", "frac")
    text = tidy(text.replace("{,}", ","))
    if text.startswith("{") and text.endswith("}") and _WORDS.fullmatch(text[1:-1]):
        text = text[1:-1]
    return " ".join(text.casefold().split()) if _WORDS.fullmatch(text) else _LOOSE.sub("", text)


def canonical(text: str) -> str:
    """A text in one way of writing: signs as commands, words out of their `\\text`, one kind of space."""
    text = _ROOT.sub(lambda match: f"\\sqrt{{{match[1] or match[2]}}}", text.translate(_SIGNS))
    text = text.replace("{,}", ",").replace("dfrac", "frac").replace("tfrac", "frac").replace("**", "^")
    text = undelimited(_SPACE.sub(" ", _LOOK.sub("", text)))
    return _WRAPPED.sub(r" \1 ", text).strip() if _WRAPPED.search(text) else text


def _numbers(gold: str, stated: str, tolerance: float | None) -> bool | None:
    first = number(gold)
    second = number(stated) if first is not None else None
    return None if first is None or second is None else same(first, second, tolerance)


def _texts(gold: str, stated: str) -> bool | None:
    """Words are equal to the same words, whatever their case, article and full stop."""
    if not is_prose(gold) or number(gold) is not None or "\\" in gold or "=" in gold:
        return None
    return _bare(gold) == _bare(stated)


def _bare(text: str) -> str:
    text = _ARTICLE.sub("", " ".join(text.replace("\u2019", "'").casefold().split()))
    return text.strip(" .,;:!?\"'")


def _letters(gold: str, stated: str) -> bool | None:
    """Multiple choice: (B), B., B. 42, Option B are B."""
    wanted, given = _LETTER.fullmatch(gold), _LETTER.fullmatch(stated)
    if wanted is None or (wanted[2] is not None and wanted[2].islower()):
        if given is None or given[3] == "" or given[0][0].islower():
            return None
        return _numbers(gold, given[3], None) or None
    if given is None or _LETTER_AGAIN.search(given[3]):
        return False if not wanted[3] else None
    if not wanted[3] or not given[3] or wanted[3] == given[3]:
        return _choice(wanted) == _choice(given)
    return None


def _choice(match: re.Match[str]) -> str:
    return (match[1] or match[2]).upper()


def _colons(gold: str, stated: str) -> bool | None:
    wanted, given = _COLON.fullmatch(gold), _COLON.fullmatch(stated)
    if wanted is None and given is None:
        return None
    if wanted is not None and given is not None:
        parts = [tuple(int(part or 0) for part in match.groups()[:3]) for match in (wanted, given)]
        halves = {(match[4] or "").casefold() for match in (wanted, given)} - {""}
        if len(halves) == 1 and _of_24_hours(wanted) == _of_24_hours(given):
            return True
        return parts[0] == parts[1] and len(halves) < 2
    ratio, other = (wanted, stated) if wanted is not None else (given, gold)
    match = _RATIO.fullmatch(other)
    if ratio is None or match is None or ratio[3] or ratio[4]:
        return False
    return [int(part) for part in match.groups() if part] == [int(ratio[1]), int(ratio[2])]


def _of_24_hours(match: re.Match[str]) -> tuple[int, ...]:
    hour, minute, second, half = match.groups()
    hours = int(hour) % 12 + 12 * (half in ("p", "P")) if half else int(hour)
    return hours, int(minute), int(second or 0)


def _bases(gold: str, stated: str) -> bool | None:
    wanted = _BASE.fullmatch("".join(gold.split()))
    if wanted is None:
        return None
    compact = "".join(stated.split()).replace(",", "")
    given = _BASE.fullmatch(compact)
    if given is not None:
        return wanted.groups() == given.groups()
    return wanted[1] == compact if compact.removeprefix("-").isalnum() else None


def _rightsides(gold: str, stated: str) -> tuple[str, str]:
    """Both without `x =` or `x \\in` before them, where only one has it or both have the same."""
    gold, stated = _IN.sub("", gold), _IN.sub("", stated)
    about = [part.strip() for part in _ABOUT.split(stated) if part.strip()]
    if len(about) > 1:
        stated = _of_about(gold, about)
    wanted, given = sides(gold), sides(stated)
    values = [number(side) for side in wanted] if len(wanted) > 1 else []
    if values and None not in values:  # a reference that says the same in two ways, such as 0.56 = 56%
        return (wanted[0] if _numbers(wanted[0], stated, None) else wanted[-1]).strip(), stated
    if _is_assignment(wanted) and _is_assignment(given):
        if "".join(wanted[0].split()) == "".join(given[0].split()):
            return wanted[1].strip(), given[1].strip()
        return gold, stated
    if _is_assignment(wanted) and len(given) == 1 and not _RELATION.search(stated):
        return wanted[1].strip(), stated
    if len(wanted) == 1 and len(given) > 1 and not _RELATION.search(gold):
        return gold, _end_of_chain(given)
    return gold, stated


def _is_assignment(sides: list[str]) -> bool:
    return len(sides) == 2 and _LEFT_SIDE.fullmatch(sides[0].strip()) is not None and not re.search(r"[,;]", sides[0])


def _of_about(gold: str, parts: list[str]) -> str:
    """Of `exact \\approx decimal` the side that is like the reference; nothing where two numbers contradict."""
    values = [found for part in parts if (found := number(sides(part)[-1])) is not None]
    if any(not same(values[0], value, 0.01) for value in values[1:]):
        return ""
    wanted = number(gold)
    return parts[-1] if wanted is not None and wanted.decimal else parts[0]


def _end_of_chain(sides: list[str]) -> str:
    """What `a = b = c` says in the end; nothing where its numbers contradict one another."""
    if any(re.search(r"[,;]|\bor\b|\band\b", side) for side in sides[1:-1]):
        return "=".join(sides)
    values = [found for side in sides if (found := number(side)) is not None]
    if any(not same(values[0], value, None) for value in values[1:]):
        return ""
    if re.search(r"[,;]|\bor\b|\band\b", sides[-1]) or re.search(r"[,;]|\bor\b|\band\b", sides[0]):
        return "=".join(sides)
    last_is_letter = _LEFT_SIDE.fullmatch(sides[-1].strip()) is not None and values
    return (sides[-2] if last_is_letter else sides[-1]).strip()


def _shapes(gold: str, stated: str, tolerance: float | None, judge: Judge | None, depth: int) -> bool | None:
    wanted, given = shape(gold), shape(stated)
    if judge is None and depth and (wanted.kind, given.kind) != ("one", "one"):
        return None  # a set in a set takes quadratic time: nothing for the fast path
    if wanted.kind != given.kind:
        if "one" in (wanted.kind, given.kind) and _may_be_related(wanted, given, gold, stated):
            return None if judge is None else judge(gold, stated)
        return False
    if wanted.kind == "one":
        return _one(wanted.items[0], given.items[0], tolerance, judge)
    if wanted.kind in ("set", "union"):
        return _unordered(wanted.items, given.items, tolerance, judge, depth)
    if len(wanted.items) != len(given.items) or wanted.form != given.form:
        return False
    return _all(
        equal(first, second, tolerance, judge, depth + 1)
        for first, second in zip(wanted.items, given.items, strict=True)
    )


def _may_be_related(wanted: Shape, given: Shape, gold: str, stated: str) -> bool:
    """Whether one may be a relation or `a \\pm b` and the other the set that it stands for."""
    one = gold if wanted.kind == "one" else stated
    other = given if wanted.kind == "one" else wanted
    if other.kind in ("tuple", "union") and re.search(r"[<>]|\\[lg]", one):
        return True
    return other.kind == "set" and "\\pm" in one and len(other.items) == 2


def _one(gold: str, stated: str, tolerance: float | None, judge: Judge | None) -> bool | None:
    """Whether two expressions are equal."""
    if not stated or not gold:
        return False
    if plain(gold) == plain(stated):
        return True
    decided = _numbers(gold, stated, tolerance)
    if decided is not None:
        return decided
    wanted = number(gold)
    if wanted is not None and (is_prose(stated) or _SEVERAL.search(stated)) and "\\" not in stated:
        return False
    return None if judge is None else judge(gold, stated)


def _all(results: Iterable[bool | None]) -> bool | None:
    """False if one is False, else None if one is None, else True. Stops at the first False."""
    unknown = False
    for result in results:
        if result is False:
            return False
        unknown = unknown or result is None
    return None if unknown else True


def _unordered(
    gold: tuple[str, ...], stated: tuple[str, ...], tolerance: float | None, judge: Judge | None, depth: int
) -> bool | None:
    """Whether each item of the one is among those of the other, and each of the other among those of the one."""
    left, right = {plain(item): item for item in gold}, {plain(item): item for item in stated}
    if left.keys() == right.keys():
        return True
    if len(left) != len(right) and (judge is None or 2 * len(left) < len(right) or 2 * len(right) < len(left)):
        return None if judge is None and len(left) * len(right) <= _MOST_PAIRS else False
    if len(left) * len(right) > _MOST_PAIRS:
        return False

    def has(item: str, others: dict[str, str], is_gold: bool) -> bool | None:
        unknown = False
        for other in others.values():
            pair = (item, other) if is_gold else (other, item)
            result = equal(*pair, tolerance, judge, depth + 1)
            if result:
                return True
            unknown = unknown or result is None
        return None if unknown else False

    forth = _all(has(item, right, True) for item in left.values())
    if forth is False:
        return False
    back = _all(has(item, left, False) for item in right.values())
    return back if back is False or back is None else forth
