"""New problems from real ones: names, nouns and wording swapped, numbers redrawn so that the formula still works.

Everything is drawn from one `random.Random` over tuples in a fixed order: the same seed gives the same problems in
every process.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from random import Random

from . import working
from .formula import Node, canonical, evaluate, slots_of, work
from .rows import WORD_OF_NUMBER, Row
from .wording import KEPT_NOUNS, NOT_NAMES, PRONOUNS, SYNONYMS

_SYLLABLES = tuple(consonant + vowel for consonant in "bdfgklmnprstv" for vowel in "aeio")


@dataclass(frozen=True, slots=True)
class Example:
    """A problem with its numbers filled in, its worked completion and its answer."""

    question: str
    completion: str
    answer: str


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What names and nouns are swapped with."""

    names: tuple[str, ...]
    nouns: tuple[str, ...]


def vocabulary_of(rows: Sequence[Row]) -> Vocabulary:
    """Names: capitalised inside a sentence. Nouns: plurals after a number or after "how many"."""
    names: Counter[str] = Counter()
    nouns: Counter[str] = Counter()
    for row in rows:
        names.update(re.findall(r"(?<=[a-z,}] )([A-Z][a-z]{2,})\b", row.template))
        nouns.update(re.findall(r"\} ([a-z]{2,}s)\b", row.template))
        nouns.update(re.findall(r"\bhow many ([a-z]{2,}s)\b", row.template, re.IGNORECASE))
    kept_names = sorted(name for name, count in names.items() if count > 1 and name not in NOT_NAMES)
    kept_nouns = sorted(n for n, count in nouns.items() if n not in KEPT_NOUNS and not n.endswith("ss"))
    return Vocabulary(tuple(kept_names), tuple(kept_nouns))


def augment(row: Row, vocabulary: Vocabulary, rng: Random) -> Example:
    """One new problem with the row's formula."""
    assert row.formula is not None
    values = redraw(row, rng)
    template = row.template
    if rng.random() < 0.75:
        template = swap_names(template, vocabulary.names, rng)
    if rng.random() < 0.5:
        template = swap_nouns(template, vocabulary.nouns, rng)
    template = swap_wording(template, rng)
    return Example(fill(template, row, values, rng), work(row.formula, values), answer_of(row.formula, values))


def original(row: Row) -> Example:
    """The row as it stands."""
    assert row.formula is not None
    return Example(row.text, work(row.formula, row.values), answer_of(row.formula, row.values))


def answer_of(formula: Node, values: Sequence[Decimal]) -> str:
    """The value of a formula as text."""
    value = evaluate(formula, values)
    assert value is not None
    return working.plain(value)


def fill(template: str, row: Row, values: Sequence[Decimal], rng: Random) -> str:
    """The numbers back in their places; small ones now and then as words."""

    def number(found: re.Match[str]) -> str:
        slot = int(found[1])
        value = values[slot]
        in_words = rng.random() < (0.6 if row.spelled[slot] else 0.06)
        if value in WORD_OF_NUMBER and in_words:
            word = WORD_OF_NUMBER[int(value)]
            return word.capitalize() if found.start() == 0 else word
        return f"{value:,f}" if value >= 1000 and rng.random() < 0.15 else working.plain(value)

    return re.sub(r"\{(\d+)\}", number, template)


# Numbers.


def redraw(row: Row, rng: Random, tries: int = 150) -> tuple[Decimal, ...]:
    """New numbers of about the old magnitudes for which every step of the formula works; else the old ones."""
    assert row.formula is not None
    used = slots_of(row.formula)
    for _ in range(tries):
        drawn: dict[Decimal, Decimal] = {}
        values: list[Decimal] = []
        for slot, value in enumerate(row.values):
            if slot not in used and row.source != "svamp" and value < 10 and rng.random() < 0.7:
                values.append(value)
                continue
            # equal numbers of which the formula takes only some stay equal: which one it meant is not known
            tied = value in drawn and not all(i in used for i, v in enumerate(row.values) if v == value)
            new = drawn[value] if tied else _number_like(value, rng)
            drawn[value] = new
            values.append(new)
        _make_divisible(row.formula, values)
        if row.formula[0] in ("gcd", "lcm"):
            values = _with_common_factor(values, rng)
        if _sensible(row.formula, values):
            return tuple(values)
    return row.values


def _number_like(value: Decimal, rng: Random) -> Decimal:
    if value != int(value):
        places = -int(value.as_tuple().exponent)
        whole = int(value)
        new = rng.randint(whole // 2, whole * 2 + 1)
        return Decimal(f"{new}.{rng.randint(1, 10**places - 1):0{places}d}")
    number = int(value)
    if number <= 1:
        return value
    digits = len(str(number))
    if digits <= 2 and rng.random() < 0.15:
        digits = 3 - digits
    if digits >= 3 and rng.random() < 0.4:
        digits -= 1
    if digits == 1:
        return Decimal(rng.randint(2, 9))
    if digits <= 3:
        return Decimal(rng.randint(10 ** (digits - 1), 10**digits - 1))
    number = number if digits == len(str(number)) else number // 10
    return Decimal(rng.randint(number // 2, number + number // 2))


def _make_divisible(node: Node, values: list[Decimal]) -> None:
    """Where a bare number is divided, round it to a multiple of its divisor, so that redrawing need not be lucky."""
    if node[0] in ("slot", "constant"):
        return
    for child in node[1:]:
        _make_divisible(child, values)
    if node[0] == "/" and node[1][0] == "slot":
        divisor = evaluate(node[2], values)
        if divisor is not None and divisor >= 1 and divisor == int(divisor):
            quotient = max(2, int(values[node[1][1]]) // int(divisor))
            values[node[1][1]] = Decimal(quotient * int(divisor))


def _with_common_factor(values: Sequence[Decimal], rng: Random) -> list[Decimal]:
    factor = rng.randint(2, 9)
    return [Decimal(factor * rng.randint(1, 12)) for _ in values]


def _sensible(node: Node, values: Sequence[Decimal]) -> bool:
    answer = evaluate(node, values)
    if answer is None or (answer < 1 and answer == int(answer) and node[0] != "%"):
        return False
    return canonical(node, values) == node and _positive(node, values)


def _positive(node: Node, values: Sequence[Decimal]) -> bool:
    if node[0] in ("slot", "constant"):
        return True
    value = evaluate(node, values)
    return value is not None and (value > 0 or node[0] == "%") and all(_positive(n, values) for n in node[1:])


# Words.


def swap_names(template: str, names: Sequence[str], rng: Random) -> str:
    """Every name for another, now and then an invented one; pronouns perhaps of the other gender."""
    known = set(names)
    present = list(dict.fromkeys(word for word in re.findall(r"[A-Z][a-z]+", template) if word in known))
    if not present:
        return template
    others = rng.sample(list(names), len(present))
    new = {old: _invented(rng).capitalize() if rng.random() < 0.15 else other for old, other in zip(present, others)}
    template = re.sub(r"[A-Z][a-z]+", lambda found: new.get(found[0], found[0]), template)
    if rng.random() < 0.4:
        template = re.sub(r"\b[A-Za-z]+\b", lambda found: PRONOUNS.get(found[0], found[0]), template)
    return template


def swap_nouns(template: str, nouns: Sequence[str], rng: Random) -> str:
    """Countable things for other things, plural and singular alike."""
    known = set(nouns)
    present = list(dict.fromkeys(word for word in re.findall(r"[a-z]+", template) if word in known))
    new: dict[str, str] = {}
    for old in present:
        if rng.random() < 0.8:
            other = _invented(rng) + "s" if rng.random() < 0.1 else rng.choice(list(nouns))
            new[old] = other
            if singular(old) not in known:
                new[singular(old)] = singular(other)
    return re.sub(r"[a-z]+", lambda found: new.get(found[0], found[0]), template)


def singular(noun: str) -> str:
    """`cookies` -> `cookie`, `boxes` -> `box`, `cherries` -> `cherry`: good enough for swapping."""
    if noun.endswith("ies") and len(noun) > 5 and noun not in ("cookies", "movies", "brownies", "pixies", "zombies"):
        return noun[:-3] + "y"
    if noun.endswith(("xes", "ches", "shes", "sses")):
        return noun[:-2]
    return noun[:-1]


def swap_wording(template: str, rng: Random, share: float = 0.5) -> str:
    """Words and phrases for others that mean the same."""
    for group, pattern in SYNONYMS:
        if rng.random() < share and pattern.search(template):
            template = pattern.sub(lambda found, group=group: _like(rng.choice(group), found[0]), template)
    return template


def _like(word: str, model: str) -> str:
    return word[0].upper() + word[1:] if model[0].isupper() else word


def _invented(rng: Random) -> str:
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(2, 3)))


# Drills.


def drill(rng: Random, easy: bool = False) -> Example:
    """Bare arithmetic, worked: `47+85`. Easy: two digits at most, and what is known by heart."""
    operation = rng.choice("++++---**/%" if easy else "++++---***//%%")
    if operation in "+-":
        places = rng.choice((0, 0, 0, 0, 0, 2)) if not easy else 0
        pair = sorted((_size(rng, places, easy), _size(rng, places, easy)), reverse=True)
        values = tuple(pair) if operation == "-" or rng.random() < 0.5 else tuple(reversed(pair))
    elif operation == "*":
        first = Decimal(rng.randint(2, 9)) if easy else _size(rng, 0, easy)
        values = (first, Decimal(rng.randint(2, 99 if not easy and rng.random() < 0.2 else 9)))
        values = values if rng.random() < 0.5 else tuple(reversed(values))
    else:
        divisor = rng.randint(2, 9) if easy or rng.random() < 0.75 else rng.randint(10, 40)
        quotient = rng.randint(2, 9) if easy or rng.random() < 0.4 else rng.randint(10, 99)
        rest = rng.randint(0, divisor - 1) if operation == "%" else 0
        values = (Decimal(divisor * quotient + rest), Decimal(divisor))
    node: Node = (operation, ("slot", 0), ("slot", 1))
    sign = "/" if operation == "%" else operation
    question = f"{working.plain(values[0])}{sign}{working.plain(values[1])}"
    if operation == "%":
        question = f"remainder of {question}"
    return Example(question, work(node, values), answer_of(node, values))


def _size(rng: Random, places: int, easy: bool) -> Decimal:
    digits = rng.choice((1, 2, 2) if easy else (1, 2, 2, 2, 3, 3)) + places
    return Decimal(rng.randint(10 ** (digits - 1), 10**digits - 1)).scaleb(-places)
