"""Short answers in one form, so that two ways to write the same answer become equal texts.

1. Without case, accents on Latin and Greek letters, punctuation, and the articles a, an, the (in front of another
   word, so that "vitamin A" keeps its own). `&` is "and", `%` is "percent", `$5` is "5 dollars". A dot or an apostrophe
   inside a word leaves it whole ("U.S." is "us"), a hyphen parts it.
2. Numbers are one whether in digits, with thousands commas or in English words: "3,000", "3000", "three thousand";
   "3.5 million" and "3,500,000"; "first" and "1st". Years in words ("nineteen ninety") are not read.
3. Dates are one in the common forms with an English month, and as 1999-03-05 or 1999/3/5. 3/5/1999 is left as it is,
   since it may be in March or in May; 25/12/1999 and 12/25/1999 are not.
4. Only the first 2,000 characters count.
"""

import functools
import re
import unicodedata
from collections import Counter
from fractions import Fraction

from gruppo.rewards.reading import UNSPACED, folded, mark_class

LONGEST_ANSWER = 2000

_ACCENTS = re.compile("(?<=[A-Za-z\u0370-\u03ff])[\u0300-\u036f]+")
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")
_LATEX = (
    (re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s?\{"), "{"),
    (re.compile(r"\\[,;:! ]"), " "),
    (re.compile(r"\{,\}"), ","),
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    "(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_DAY = r"(?P<day>0?[1-9]|[12][0-9]|3[01])(?:st|nd|rd|th)?\b"
_YEAR = r"(?P<year>[12][0-9]{3})\b"
_WEEKDAY = r"(?:\b(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s{1,3})?"
_GAP = r"(?:,?\s{1,3}|,)"
_NUMERIC_MONTH = "(?P<month>0?[1-9]|1[0-2])"
_NUMERIC_DAY = "(?P<day>0?[1-9]|[12][0-9]|3[01])"
_LATE_DAY = "(?P<day>1[3-9]|2[0-9]|3[01])"
_DATES = tuple(
    re.compile(rf"(?<![0-9/.-]){form}(?![0-9/-])")
    for form in (
        rf"{_YEAR}(?P<sign>[-/.]){_NUMERIC_MONTH}(?P=sign){_NUMERIC_DAY}",
        rf"{_NUMERIC_MONTH}(?P<sign>[-/.]){_LATE_DAY}(?P=sign){_YEAR}",
        rf"{_LATE_DAY}(?P<sign>[-/.]){_NUMERIC_MONTH}(?P=sign){_YEAR}",
        rf"{_WEEKDAY}\b{_MONTH}\s{{0,3}}{_DAY}{_GAP}{_YEAR}",
        rf"{_WEEKDAY}(?:\bthe\s)?\b{_DAY}\s{{0,3}}(?:of\s)?{_MONTH}{_GAP}(?:of\s)?{_YEAR}",
        rf"\b{_YEAR}{_GAP}{_MONTH}\s{{0,3}}{_DAY}",
        rf"\b{_MONTH}{_GAP}(?:of\s)?{_YEAR}",
        rf"{_WEEKDAY}\b{_MONTH}\s{{0,3}}(?:the\s)?{_DAY}",
        rf"{_WEEKDAY}(?:\bthe\s)?\b{_DAY}\s{{0,3}}(?:of\s)?{_MONTH}",
    )
)
_CURRENCY = {"$": "dollars", "€": "euros", "£": "pounds", "¥": "yen"}
_AMOUNT = re.compile(
    r"([$€£¥])\s?([0-9]{1,40}(?:[.,][0-9]{1,40}){0,13}(?:\s(?:hundred|thousand|million|billion|trillion)\b)?)"
)
_SPELT = (
    (re.compile(r"['`´]"), ""),
    (re.compile(r"\.(?![0-9])|(?<=[^\W\d])\."), ""),
    (re.compile(r"%|\bper cent\b"), " percent "),
    (re.compile(r"&"), " and "),
    (re.compile(r"\bdollar\b"), "dollars"),
    (re.compile(r"_"), " "),
)
_ARTICLES = {"a", "an", "the"}

_UNIT_WORDS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_UNIT_WORDS += " seventeen eighteen nineteen"
_TEN_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ORDINAL_WORDS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth"
_ORDINAL_WORDS += " fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
_UNITS = {word: value for value, word in enumerate(_UNIT_WORDS.split(" "))}
_TENS = {word: 10 * value for value, word in enumerate(_TEN_WORDS.split(" "), 2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ORDINALS = {word: value for value, word in enumerate(_ORDINAL_WORDS.split(" "))} | {"hundredth": 100}
_ORDINALS |= {f"{word[:-1]}ieth": value for word, value in _TENS.items()}
_DIGITS = re.compile(
    r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3}){1,12}(?:\.[0-9]{1,40})?|[0-9]{1,40}(?:\.[0-9]{1,40})?|\.[0-9]{1,40})"
)


@functools.lru_cache(maxsize=1)
def _token() -> re.Pattern[str]:
    letter = f"(?:(?![{UNSPACED}])[\\w{mark_class()}])"
    number = f"(?:(?<![\\w)])[+-])?{_DIGITS.pattern.removeprefix('[+-]?')}(?!{letter}|[.,]?[0-9])"
    return re.compile(f"{number}|[{UNSPACED}]|{letter}+[+#]*")


def normal(text: str) -> tuple[str, ...]:
    """The words of an answer in one form.

    >>> normal("The 5th of March, 1999") == normal("1999-03-05") == normal("Mar. 5 1999")
    True
    >>> normal("Three thousand U.S. dollars"), normal("$3,000")
    (('3000', 'us', 'dollars'), ('3000', 'dollars'))
    """
    text = text[:LONGEST_ANSWER]
    for pattern, form in _LATEX:
        text = pattern.sub(form, text)
    text = folded(text, LONGEST_ANSWER).replace("\N{MINUS SIGN}", "-")
    text = _FOREIGN_DIGIT.sub(lambda match: str(unicodedata.decimal(match[0])), text)
    text = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))
    for pattern in _DATES:
        text = pattern.sub(_date, text)
    text = _AMOUNT.sub(lambda match: f"{match[2]} {_CURRENCY[match[1]]}", text)
    for pattern, form in _SPELT:
        text = pattern.sub(form, text)
    row = _token().findall(text)
    kept = [word for word in row[:-1] if word not in _ARTICLES] + row[-1:]
    return tuple(_numbers(kept))


def token_f1(stated: tuple[str, ...], accepted: tuple[str, ...]) -> float:
    """The harmonic mean of precision and recall of words, as SQuAD has it (https://arxiv.org/abs/1606.05250).

    >>> token_f1(("red", "planet", "mars"), ("mars",))
    0.5
    """
    common = sum((Counter(stated) & Counter(accepted)).values())
    return 2 * common / (len(stated) + len(accepted)) if common else 0.0


def _date(match: re.Match[str]) -> str:
    """Year, month and day as words of their own, so that a part of a date shares words with all of it."""
    found = match.groupdict()
    month = found["month"]
    number = int(month) if month.isdigit() else _MONTHS.index(month[:3]) + 1
    year = f"{found['year']} " if found.get("year") else ""
    day = f" d{int(found['day']):02}" if found.get("day") else ""
    return f" {year}m{number:02}{day} "


def _numbers(row: list[str]) -> list[str]:
    """The words with every number in one form."""
    result: list[str] = []
    at = 0
    while at < len(row):
        word, at = _number(row, at)
        result.append(word)
    return result


def _number(row: list[str], at: int) -> tuple[str, int]:
    """The number that begins here and where it ends, else the word that stands here."""
    total, least = Fraction(0), Fraction(10**15)
    begin = at
    while at < len(row):
        group, after, ordinal = _below_thousand(row, at)
        if group is None or (at > begin and (group >= least or row[at] in _SCALES)):
            break
        if ordinal:
            return _as_ordinal(total + group), after
        scale = _SCALES.get(row[after]) if after < len(row) else None
        if scale is None or scale >= least:
            total, at = total + group, after
            break
        total, at, least = total + group * scale, after + 1, Fraction(scale)
        if at + 1 < len(row) and row[at] == "and" and (row[at + 1] in _UNITS or row[at + 1] in _TENS):
            at += 1
    if at == begin:
        return row[begin], begin + 1
    return (str(total.numerator) if total.denominator == 1 else str(total)), at


def _below_thousand(row: list[str], at: int) -> tuple[Fraction | None, int, bool]:
    """A number in digits, or one below a thousand in words; where it ends; whether it is an ordinal."""
    word = row[at]
    if _DIGITS.fullmatch(word):
        return Fraction(word.replace(",", "")), at + 1, False
    if word in _SCALES:
        return Fraction(1), at, False
    hundreds = 0
    if word == "hundred":
        hundreds, at = 100, at + 1
    elif word in _UNITS and at + 1 < len(row) and row[at + 1] in ("hundred", "hundredth"):
        if row[at + 1] == "hundredth":
            return Fraction(100 * _UNITS[word]), at + 2, True
        hundreds, at = 100 * _UNITS[word], at + 2
    if hundreds and at + 1 < len(row) and row[at] == "and" and _is_word_number(row[at + 1]):
        at += 1
    value, after, ordinal = _below_hundred(row, at)
    if value is None:
        return (Fraction(hundreds), at, False) if hundreds else (None, at, False)
    return Fraction(hundreds + value), after, ordinal


def _below_hundred(row: list[str], at: int) -> tuple[int | None, int, bool]:
    word = row[at] if at < len(row) else ""
    if word in _ORDINALS:
        return _ORDINALS[word], at + 1, True
    if word in _UNITS:
        return _UNITS[word], at + 1, False
    if word not in _TENS:
        return None, at, False
    following = row[at + 1] if at + 1 < len(row) else ""
    if 1 <= _UNITS.get(following, 0) <= 9:
        return _TENS[word] + _UNITS[following], at + 2, False
    if 1 <= _ORDINALS.get(following, 0) <= 9:
        return _TENS[word] + _ORDINALS[following], at + 2, True
    return _TENS[word], at + 1, False


def _is_word_number(word: str) -> bool:
    return word in _UNITS or word in _TENS or word in _ORDINALS


def _as_ordinal(value: Fraction) -> str:
    number = int(value)
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
