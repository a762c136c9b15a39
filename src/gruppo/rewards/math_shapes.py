"""The structure of an answer: its outermost brackets, what they hold, the sides of an equation. Linear and total."""

import re
from dataclasses import dataclass

_EQUALS = re.compile(r"\\?[({\[]|\\?[)}\]]|(?<![<>!:\\])=")
_MATRIX = re.compile(r"\\begin\{([pbvBV]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)
_TOKEN = re.compile(
    r"\\[{}]|\\(?:cup|lbrace|rbrace|langle|rangle)(?![A-Za-z])|\\.|[()\[\]{},;]|\b(?:or|and)\b", re.DOTALL
)
_OPENING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\lbrace": "\\rbrace", "\\langle": "\\rangle"}
_CLOSING = frozenset((*_OPENING.values(),))
_DEPTH = 12


@dataclass(frozen=True, slots=True)
class Shape:
    """What an answer is made of."""

    kind: str
    """one (an expression), tuple, set, union or matrix."""
    items: tuple[str, ...]
    form: str = ""
    """Brackets of a tuple, size of a matrix."""


def sides(text: str) -> list[str]:
    """The sides of an equation or a chain of them: split at each `=` outside of brackets."""
    if "=" not in text:
        return [text]
    depth, start, sides = 0, 0, []
    for token in _EQUALS.finditer(text):
        if token[0] == "=":
            if depth == 0:
                sides.append(text[start : token.start()])
                start = token.end()
        else:
            depth += 1 if token[0][-1] in "({[" else -1
    return [*sides, text[start:]]


def shape(text: str) -> Shape:
    """What an answer is made of, by its outermost brackets and separators."""
    for _ in range(_DEPTH):
        text = text.strip()
        matrix = _MATRIX.fullmatch(text)
        if matrix is not None and "\\begin" not in matrix[2]:
            rows = [row.split("&") for row in matrix[2].split("\\\\") if row.strip()]
            cells = tuple(cell.strip() for row in rows for cell in row)
            return Shape("matrix", cells, "x".join(str(len(row)) for row in rows))
        opening, parts, unions, closing = _taken_apart(text)
        if len(unions) > 1:
            return Shape("union", unions)
        if len(parts) > 1 and not opening:
            return Shape("set", parts)
        if not opening:
            return Shape("one", (text,))
        if len(parts) > 1:
            if opening in ("\\{", "\\lbrace", "{"):
                return Shape("set", parts)
            return Shape("tuple", parts, opening + closing if len(parts) == 2 and opening != "\\langle" else "")
        if opening == "[" and closing == "]" and not parts:
            return Shape("one", (text,))
        text = parts[0] if parts else ""
        if not text:
            return Shape("one", ("",))
    return Shape("one", (text,))


def _taken_apart(text: str) -> tuple[str, tuple[str, ...], tuple[str, ...], str]:
    """Opening bracket, items, members of a union and closing bracket. No brackets: what is outside of any is split."""
    depth = 0
    opening, closing, inner_start = "", "", 0
    outer, inner, union = [0], [0], [0]
    inner_end = len(text)
    outer_ends: list[int] = []
    inner_ends: list[int] = []
    union_ends: list[int] = []
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in _OPENING:
            depth += 1
            if token.start() == 0:
                opening, inner_start = sign, token.end()
        elif sign in _CLOSING:
            depth -= 1
            if depth == 0 and opening and not closing:
                closing, inner_end, whole = sign, token.start(), token.end() == len(text)
                if not whole:
                    opening = ""
        elif sign == "\\cup":
            if depth == 0:
                union_ends.append(token.start())
                union.append(token.end())
        elif sign in (",", ";", "or", "and"):
            if depth == 0:
                outer_ends.append(token.start())
                outer.append(token.end())
            elif depth == 1:
                inner_ends.append(token.start())
                inner.append(token.end())
    unions = _pieces(text, union, union_ends, len(text))
    if opening and closing:
        return opening, _pieces(text, [inner_start, *inner[1:]], inner_ends, inner_end), unions, closing
    return "", _pieces(text, outer, outer_ends, len(text)), unions, ""


def _pieces(text: str, starts: list[int], ends: list[int], end: int) -> tuple[str, ...]:
    pieces = (text[start:stop].strip() for start, stop in zip(starts, [*ends, end], strict=True))
    return tuple(piece for piece in pieces if piece)
