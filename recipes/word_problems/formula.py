"""Formulas over the numbers of a text: finding them, putting them in order, evaluating and working them.

A formula is a tree of tuples: ("slot", i) the i-th number of the text, ("constant", Decimal), or (operation, left,
right) with + - * / and, at the root, // (quotient), % (remainder), ceil, gcd, lcm.
"""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import permutations
from math import gcd
from typing import Any

from . import working

Node = tuple[Any, ...]

_BINARY = ("+", "-", "*", "/")
_WHOLE = ("/", "//", "%", "ceil", "gcd", "lcm")
_LARGEST = Decimal(999999)


def evaluate(node: Node, values: Sequence[Decimal]) -> Decimal | None:
    """The value, or None where a step leaves what can be worked (negative, not whole, too large)."""
    if node[0] == "slot":
        return values[node[1]]
    if node[0] == "constant":
        return node[1]
    a, b = evaluate(node[1], values), evaluate(node[2], values)
    if a is None or b is None:
        return None
    result = _apply(node[0], a, b)
    return result if result is not None and 0 <= result <= _LARGEST else None


def _apply(operation: str, a: Decimal, b: Decimal) -> Decimal | None:
    if operation == "+":
        return a + b
    if operation == "-":
        return a - b
    if operation == "*":
        return a * b
    if a != int(a) or b != int(b) or b < 1 or a < 1:
        return None
    x, y = int(a), int(b)
    whole = {
        "/": None if x % y else x // y,
        "//": x // y,
        "%": x % y,
        "ceil": -(-x // y),
        "gcd": gcd(x, y),
        "lcm": x * y // gcd(x, y),
    }[operation]
    return None if whole is None else Decimal(whole)


def work(node: Node, values: Sequence[Decimal]) -> str:
    """The worked steps of a formula that evaluates, joined by `;`, and the answer: `2*4=8;8-3=5#### 5`."""
    steps: list[str] = []
    answer = _steps(node, values, steps)
    return f"{';'.join(steps)}#### {working.plain(answer)}"


def _steps(node: Node, values: Sequence[Decimal], steps: list[str]) -> Decimal:
    if node[0] == "slot":
        return values[node[1]]
    if node[0] == "constant":
        return node[1]
    a, b = _steps(node[1], values, steps), _steps(node[2], values, steps)
    operation = node[0]
    result = _apply(operation, a, b)
    assert result is not None
    if operation in ("+", "-", "*"):
        function = {"+": working.add, "-": working.subtract, "*": working.multiply}[operation]
        steps.append(function(a, b))
        return result
    x, y = int(a), int(b)
    if operation == "gcd":
        steps.append(working.greatest_common_divisor(x, y))
    elif operation == "lcm":
        steps.append(working.least_common_multiple(x, y))
    else:
        steps.append(working.divide(x, y))
        if operation == "ceil" and x % y:
            steps.append(working.add(Decimal(x // y), Decimal(1)))
    return result


def slots_of(node: Node) -> list[int]:
    """The slots of a formula, in its order, repeats kept."""
    if node[0] == "slot":
        return [node[1]]
    if node[0] == "constant":
        return []
    return slots_of(node[1]) + slots_of(node[2])


def canonical(node: Node, values: Sequence[Decimal]) -> Node:
    """The same formula with sums and products in the order of the text, so that a problem has one working."""
    if node[0] in ("slot", "constant"):
        return node
    if node[0] in ("+", "-"):
        return _ordered_sum(node, values)
    left, right = canonical(node[1], values), canonical(node[2], values)
    if node[0] == "*":
        factors = sorted(_flat(("*", left, right), "*"), key=_position)
        return _chain("*", factors)
    return (node[0], left, right)


def _ordered_sum(node: Node, values: Sequence[Decimal]) -> Node:
    terms = [(sign, canonical(term, values)) for sign, term in _terms(node, 1)]
    terms.sort(key=lambda item: _position(item[1]))
    first = next(i for i, (sign, _) in enumerate(terms) if sign > 0)
    terms.insert(0, terms.pop(first))
    as_in_text = _signed_chain(terms)
    if evaluate(as_in_text, values) is not None:
        return as_in_text
    return _signed_chain(sorted(terms, key=lambda item: -item[0]))


def _terms(node: Node, sign: int) -> list[tuple[int, Node]]:
    if node[0] == "+":
        return _terms(node[1], sign) + _terms(node[2], sign)
    if node[0] == "-":
        return _terms(node[1], sign) + _terms(node[2], -sign)
    return [(sign, node)]


def _signed_chain(terms: Sequence[tuple[int, Node]]) -> Node:
    node = terms[0][1]
    for sign, term in terms[1:]:
        node = ("+" if sign > 0 else "-", node, term)
    return node


def _flat(node: Node, operation: str) -> list[Node]:
    if node[0] == operation:
        return _flat(node[1], operation) + _flat(node[2], operation)
    return [node]


def _chain(operation: str, nodes: Sequence[Node]) -> Node:
    node = nodes[0]
    for other in nodes[1:]:
        node = (operation, node, other)
    return node


def _position(node: Node) -> int:
    return min(slots_of(node), default=10**6)


# Reading formulas as the data sets write them.


class _Reader:
    """Recursive descent over `12+(3*4)`; numbers become slots of equal value, earlier results, or constants."""

    def __init__(self, text: str, values: Sequence[Decimal], results: dict[Decimal, Node], used: set[int]):
        self.tokens = re.findall(r"\d+\.?\d*|[-+*/()]", text)
        self.whole = "".join(self.tokens) == re.sub(r"\s", "", text)
        self.values, self.results, self.used = values, results, used
        self.at = 0

    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1] if self.at <= len(self.tokens) else ""

    def sum(self) -> Node | None:
        return self._left_to_right("+-", self.product)

    def product(self) -> Node | None:
        return self._left_to_right("*/", self.atom)

    def _left_to_right(self, operations: str, part: Any) -> Node | None:
        node = part()
        while node is not None and self.next() and self.next() in operations:
            operation = self.take()
            right = part()
            node = None if right is None else (operation, node, right)
        return node

    def atom(self) -> Node | None:
        token = self.take()
        if token == "(":
            node = self.sum()
            return node if self.take() == ")" else None
        return self.number(Decimal(token)) if token[:1].isdigit() else None

    def number(self, value: Decimal) -> Node:
        if value in self.results:
            return self.results.pop(value)
        same = [i for i, v in enumerate(self.values) if v == value]
        if not same:
            return ("constant", value.normalize() if value != value.to_integral() else Decimal(int(value)))
        slot = next((i for i in same if i not in self.used), same[0])
        self.used.add(slot)
        return ("slot", slot)


def read_expression(text: str, values: Sequence[Decimal]) -> Node | None:
    """`( ( 47.0 + 111.0 ) + 34.0 )` as a formula, or None."""
    reader = _Reader(text, values, {}, set())
    node = reader.sum() if reader.whole else None
    return node if reader.at == len(reader.tokens) else None


def read_asdiv(formula: str, answer: Decimal, values: Sequence[Decimal]) -> Node | None:
    """`8*2=16; 8+16+6=30`, `53/8=6 r5`, `GCD(20,8)=4` as a formula whose value is the answer, or None."""
    text = re.sub(r"\([^()\d]*\)", "", formula).strip()
    if found := re.fullmatch(r"(GCD|LCM)[(\[]([\d,\s]+)[)\]]=\d+", text):
        reader = _Reader("", values, {}, set())
        numbers = [reader.number(Decimal(n.strip())) for n in found[2].split(",") if n.strip()]
        return _if_right(_chain(found[1].lower(), numbers), values, answer)
    if found := re.fullmatch(r"([^=;]+)/(\d+)=\d+\s*r\s*\d+", text):
        reader = _Reader(f"({found[1]})/{found[2]}", values, {}, set())
        node = reader.sum() if reader.whole else None
        if node is None or node[0] != "/":
            return None
        variants = [(operation, node[1], node[2]) for operation in ("//", "%", "ceil")]
        return next((v for v in variants if _if_right(v, values, answer)), None)
    return _if_right(_read_segments(text, values), values, answer)


def _read_segments(text: str, values: Sequence[Decimal]) -> Node | None:
    results: dict[Decimal, Node] = {}
    used: set[int] = set()
    node = None
    for segment in text.split(";"):
        expression, equals, result = segment.partition("=")
        if not equals or not re.fullmatch(r"\s*\d+\.?\d*\s*", result):
            return None
        reader = _Reader(expression, values, results, used)
        node = reader.sum() if reader.whole else None
        if node is None or reader.at != len(reader.tokens):
            return None
        results[Decimal(result.strip())] = node
    return node


def _if_right(node: Node | None, values: Sequence[Decimal], answer: Decimal) -> Node | None:
    if node is None or node[0] in ("slot", "constant"):
        return None
    return node if evaluate(node, values) == answer else None


# Finding a formula by trying.


def search(values: Sequence[Decimal], answer: Decimal, steps_first: Sequence[int] = (1, 2, 3)) -> Node | None:
    """The formula of so few steps over the numbers that gives the answer; None where there is none or no telling.

    A formula that uses every number of the text beats one that does not. Of formulas that differ only in which of
    the numbers stand where (equal numbers make them so), the one nearest to the order of the text is taken.
    """
    for steps in steps_first:
        found: dict[Node, bool] = {}
        for node in _candidates(len(values), steps):
            if evaluate(node, values) == answer:
                found[canonical(node, values)] = len(slots_of(node)) == len(values)
        best = [node for node, uses_all in found.items() if uses_all] or list(found)
        if best:
            alike = len({_shape(node) for node in best}) == 1
            return min(best, key=slots_of) if alike else None
    return None


def _shape(node: Node) -> str:
    if node[0] in ("slot", "constant"):
        return "n"
    return f"({_shape(node[1])}{node[0]}{_shape(node[2])})"


def _candidates(slots: int, steps: int) -> Iterator[Node]:
    if slots > 6 or steps >= slots:
        return
    for order in permutations([("slot", i) for i in range(slots)], steps + 1):
        if steps == 1:
            yield from ((operation, order[0], order[1]) for operation in _BINARY)
        elif steps == 2:
            for first in _BINARY:
                inner = (first, order[0], order[1])
                for second in _BINARY:
                    yield (second, inner, order[2])
                    yield (second, order[2], inner)
        else:
            yield _chain("+", order)
            yield ("-", order[0], _chain("+", order[1:]))
            yield ("-", _chain("+", order[1:]), order[0])
            yield ("+", ("*", order[0], order[1]), ("*", order[2], order[3]))
            yield ("-", ("*", order[0], order[1]), ("*", order[2], order[3]))
            yield ("/", ("-", order[0], ("+", order[1], order[2])), order[3])
