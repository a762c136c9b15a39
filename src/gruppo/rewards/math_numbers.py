"""Numbers as answers write them, read exactly: fractions, mixed numbers, thousands, powers of ten, units.

1. Currency, per cent, degrees and a unit of at most five words are left out of the value: "50%" is 50, "$5.00" is 5.
2. A unit glued to its number must be a known one ("5cm", "6th"): "5ab" is a product. So must one of a single letter.
3. Thousands may be set apart by commas, `{,}` or spaces; a comma before other than three digits is no decimal sign.
4. At most 256 characters, 40 digits and an exponent of 400: anything longer is no number here.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 256
ABSOLUTE = Fraction(5, 10_000_000)
RELATIVE = Fraction(2, 1_000_000)
_LARGEST_EXPONENT = 400
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textrm|textit|mbox|operatorname)\s*\{([^{}]*)\}")
_LEFT_OUT = re.compile(r"\\[!,]|\\\$|\\%|[$%°€£¥]|\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\(?:degree|euro|pounds)\b")
_SPACES = re.compile(r"\\[;: ]|\\q?quad\b|~")
_FRACTION = re.compile(
    r"\\[dtc]?frac\s*(?:\{\s*(?P<top>[+-]?[0-9]{1,40})\s*\}|(?P<t>[0-9]))"
    r"\s*(?:\{\s*(?P<bottom>[+-]?[0-9]{1,40})\s*\}|(?P<b>[0-9]))"
)
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*"
    r"(?:(?:(?P<mixed>[0-9]{1,40})\s+)?(?P<top>[+-]?[0-9]{1,40})\s*/\s*(?P<bottom>[+-]?[0-9]{1,40})"
    r"|(?P<whole>[0-9]{1,3}(?:,[0-9]{3}){1,12}|[0-9]{1,3}(?: [0-9]{3}){1,12}|[0-9]{0,40})(?P<decimals>\.[0-9]{0,40})?"
    r"(?:[eE](?P<e>[+-]?[0-9]{1,3})|\s*(?:\\times|\\cdot|×|\*)\s*10\s*\^\s*\{?\s*(?P<ten>[+-]?[0-9]{1,3})\s*\}?)?)"
    r"(?P<unit>(?:\s*[({]\s*|\s*-?)[A-Za-z][A-Za-z.'/-]*(?:\s+[A-Za-z][A-Za-z.'/-]*){0,4}(?:\s*\^\s*\{?\s*[23]\s*\}?)?\s*[)}]?)?"
)
_UNIT_IN_BRACKETS = re.compile(r"(?<=[0-9])\s+\([A-Za-z][A-Za-z .,'/-]*\)\s*$")
_NO_UNIT = re.compile(
    r"\b(?:pi|am|a\.m|pm|p\.m|o'clock|or|and|not|to|times|plus|minus|is|hundred|dozen|half|halves|thirds?|quarters?|sqrt"
    r"|sin|cos|tan|log|ln|exp|mod)\b",
    re.IGNORECASE,
)
_VOWEL = re.compile(r"[aeiouy]", re.IGNORECASE)

UNITS = {
    name: names.split()[0]
    for names in (
        "mm millimeter millimeters millimetre millimetres",
        "cm centimeter centimeters centimetre centimetres",
        "m meter meters metre metres",
        "km kilometer kilometers kilometre kilometres",
        "in inch inches",
        "ft foot feet",
        "yd yds yard yards",
        "mi mile miles",
        "mg milligram milligrams",
        "g gram grams",
        "kg kgs kilogram kilograms",
        "lb lbs pound pounds",
        "oz ounce ounces",
        "ml milliliter milliliters millilitre millilitres",
        "l liter liters litre litres",
        "gal gallon gallons",
        "s sec secs second seconds",
        "min mins minute minutes",
        "h hr hrs hour hours",
        "day days",
        "week weeks",
        "month months",
        "yr yrs year years",
        "cent cents",
        "dollar dollars usd",
        "euro euros eur",
        "degree degrees deg",
        "rad radian radians",
        "mph",
        "kph kmh km/h",
        "m/s",
        "pt pts point points",
        "st nd rd th",
    )
    for name in names.split()
}


@dataclass(frozen=True, slots=True)
class Number:
    """A number and the unit that it was given in."""

    value: int | Fraction
    unit: str = ""
    """As written, in small letters; a known one by its short name."""
    decimal: bool = False
    """Whether it has a decimal point."""


def number(text: str) -> Number | None:
    """The number that all of a text is, or None."""
    if len(text) <= 40 and text.isascii() and text.isdigit():
        return Number(int(text))
    if len(text) > LONGEST or not any("0" <= sign <= "9" for sign in text):
        return None
    match = _NUMBER.fullmatch(_normal(text))
    value = None if match is None else _value(match)
    if match is None or value is None:
        return None
    words = (match["unit"] or "").strip(" (){}-\t\n").rstrip(".").casefold()
    scale, _, rest = words.partition(" ")
    if scale in _SCALES:
        value, words = value * _SCALES[scale], rest.strip()
    if words and not _is_unit(words, match["unit"]):
        return None
    if not words and ("\\$" in text or text.count("$") == 1):
        words = "dollar"
    return Number(value, UNITS.get(words, words), match["decimals"] is not None)


def _normal(text: str) -> str:
    text = text.replace("\N{MINUS SIGN}", "-").replace("{,}", ",").replace("\\left", "").replace("\\right", "")
    text = _TEXT.sub(r" \1 ", text) if "\\" in text else text
    text = _SPACES.sub(" ", _LEFT_OUT.sub("", text)).strip()
    if not text.endswith("..."):
        text = text.removesuffix(".").rstrip()
    if text.endswith(")"):
        text = _UNIT_IN_BRACKETS.sub("", text)
    if "frac" in text:
        text = _FRACTION.sub(lambda m: f" {m['top'] or m['t']}/{m['bottom'] or m['b']} ", text).strip()
        text = re.sub(r"^([+-])\s+", r"\1", text)
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1].strip()
    return text


def _value(match: re.Match[str]) -> int | Fraction | None:
    sign = -1 if match["sign"] == "-" else 1
    if match["top"] is not None:
        bottom = int(match["bottom"])
        if not bottom or (match["mixed"] is not None and match["top"][0] in "+-"):
            return None
        return sign * (int(match["mixed"] or 0) + Fraction(int(match["top"]), bottom))
    digits = match["whole"].replace(",", "").replace(" ", "")
    decimals = (match["decimals"] or ".")[1:]
    if not digits and not decimals:
        return None
    exponent = int(match["e"] or match["ten"] or 0) - len(decimals)
    if abs(exponent) > _LARGEST_EXPONENT:
        return None
    whole = sign * int(digits + decimals)
    return whole * 10**exponent if exponent >= 0 else Fraction(whole, 10**-exponent)


def _is_unit(words: str, written: str) -> bool:
    """Whether words after a number are its unit and not a variable, a product or part of a sum."""
    if _NO_UNIT.search(words):
        return False
    base = re.sub(r"\s*\^\s*\{?\s*[23]\s*\}?$", "", words)
    if written[0].isalpha():
        return len(base) > 1 and base in UNITS
    return all(
        word.rstrip(".") in UNITS or (len(word) >= 3 and _VOWEL.search(word)) or word in ("of", "by", "in", "per", "a")
        for word in base.split()
    )


def same(gold: Number, stated: Number, tolerance: float | None) -> bool:
    """Whether two numbers are equal: exactly, or within the tolerance times the reference."""
    if gold.unit != stated.unit and gold.unit in _CANONICAL and stated.unit in _CANONICAL:
        return False
    difference = abs(gold.value - stated.value)
    if tolerance is not None:
        return difference <= Fraction(tolerance) * abs(gold.value)
    if not difference:
        return True
    if gold.value.denominator == 1 and stated.value.denominator == 1:
        return False
    return difference <= ABSOLUTE and difference <= RELATIVE * abs(gold.value)


_CANONICAL = frozenset(UNITS.values()) - {"st"}
