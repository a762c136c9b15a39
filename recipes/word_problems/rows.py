"""Reading the three data sets, the held-out fifth, near twins, and the numbers of a text."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from .formula import Node, canonical, evaluate, read_asdiv, read_expression, search

SOURCES = ("mawps", "asdiv", "svamp")

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_ONES += " seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS = {word: i for i, word in enumerate(_ONES.split())}
NUMBER_WORDS |= {word: 10 * i for i, word in enumerate(_TENS.split(), start=2)}
NUMBER_WORDS |= {
    f"{ten}-{one}": 10 * i + j
    for i, ten in enumerate(_TENS.split(), 2)
    for j, one in enumerate(_ONES.split()[:10])
    if j
}
WORD_OF_NUMBER = {value: word for word, value in NUMBER_WORDS.items()}

_WORDS = "|".join(sorted((w for w in NUMBER_WORDS if w != "zero"), key=lambda w: (-len(w), w)))
NUMBER = re.compile(
    rf"(?<![\w.,/:])(?:(\d{{1,3}}(?:,\d{{3}})+|\d+)(\.\d+)?(?![\w/:]|[.,]\d)|(\b(?:{_WORDS})\b)(?!-))", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Row:
    """One real problem: its text with {i} for its numbers, its answer, and its formula if one was found."""

    source: str
    index: int
    text: str
    answer: str
    template: str
    values: tuple[Decimal, ...]
    spelled: tuple[bool, ...]
    """Which numbers are written as words."""
    formula: Node | None

    @property
    def id(self) -> str:
        """`mawps:17`."""
        return f"{self.source}:{self.index}"


def is_held_out(source: str, index: int) -> bool:
    """A fifth, by the hash of source and index: the same whatever the seed and whatever else is in the files."""
    return _hash(f"{source}:{index}") % 5 == 0


def share_of(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: rows are parted by it, whatever the seed."""
    return _hash(text) % 10_000 / 10_000


def _hash(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def split_numbers(text: str) -> tuple[str, tuple[Decimal, ...], tuple[bool, ...]]:
    """`5 cats and two dogs` -> (`{0} cats and {1} dogs`, (5, 2), (False, True))."""
    values: list[Decimal] = []
    spelled: list[bool] = []

    def blank(found: re.Match[str]) -> str:
        word = found[3]
        digits = (found[1] or "").replace(",", "") + (found[2] or "")
        values.append(Decimal(NUMBER_WORDS[word.lower()]) if word else Decimal(digits))
        spelled.append(bool(word))
        return f"{{{len(values) - 1}}}"

    template = NUMBER.sub(blank, text.replace("{", "(").replace("}", ")"))
    return template, tuple(values), tuple(spelled)


def skeleton(text: str) -> str:
    """The text with numbers and capitalised words blanked, in lower case without punctuation."""
    template, _, _ = split_numbers(text)
    words = re.findall(r"\{|[A-Za-z]+", template)
    return " ".join("#" if word == "{" else "@" if word[0].isupper() else word for word in words)


def read_rows(folder: Path) -> list[Row]:
    """Every row of mawps_*.jsonl, asdiv_*.jsonl, svamp_*.jsonl, in that order."""
    rows: list[Row] = []
    for source in SOURCES:
        files = sorted(folder.glob(f"{source}_*.jsonl"))
        if not files:
            raise SystemExit(f"--data {folder}: no file {source}_*.jsonl there; all of {', '.join(SOURCES)} are needed")
        for file in files:
            lines = file.read_text(encoding="utf-8").splitlines()
            rows += [make_row(source, json.loads(line)) for line in lines if line.strip()]
    return rows


def make_row(source: str, raw: dict[str, Any]) -> Row:
    """One line of a data set; `source` says in which form."""
    if source == "mawps":
        text, answer = raw["input"], _number_text(raw["target"])
    elif source == "asdiv":
        text = f"{raw['body']} {raw['question']}"
        answer = re.sub(r"\s*\(.*\)$", "", raw["answer"]).strip()
    else:
        text, answer = f"{_closed(raw['Body'])} {raw['Question']}", _number_text(raw["Answer"])
    text = " ".join(text.split())
    template, values, spelled = split_numbers(text)
    node = find_formula(source, raw, values, answer)
    return Row(source, int(raw["idx"]), text, answer, template, values, spelled, node)


def _closed(body: str) -> str:
    return body.strip()


def _number_text(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def as_decimal(text: str) -> Decimal | None:
    """The number that an answer is, or None."""
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None


def find_formula(source: str, raw: dict[str, Any], values: Sequence[Decimal], answer: str) -> Node | None:
    """The formula that the row gives, else the only short one that fits its numbers and its answer."""
    target = as_decimal(answer)
    if target is None or len(values) < 1:
        return None
    node = None
    if source == "asdiv":
        node = read_asdiv(raw["formula"], target, values)
    elif source == "svamp":
        node = read_expression(raw["Equation"], values)
        node = node if node is not None and evaluate(node, values) == target else None
    elif len(values) >= 2:
        node = search(values, target, (2, 1, 3) if raw["type"] == "multiarith" else (1, 2, 3))
    if node is None or not any(node[0] == o for o in ("+", "-", "*", "/", "//", "%", "ceil", "gcd", "lcm")):
        return None
    node = canonical(node, values)
    return node if evaluate(node, values) == target else None


def split_rows(rows: Sequence[Row]) -> tuple[list[Row], list[Row], int]:
    """(training rows with a formula, held-out rows, how many near twins of held-out rows were removed)."""
    held_out = [row for row in rows if is_held_out(row.source, row.index)]
    skeletons = {skeleton(row.text) for row in held_out}
    rest = [row for row in rows if not is_held_out(row.source, row.index)]
    apart = [row for row in rest if skeleton(row.text) not in skeletons]
    return [row for row in apart if row.formula is not None], held_out, len(rest) - len(apart)
