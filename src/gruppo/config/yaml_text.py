"""YAML that people read: short, with comments under each other. Written here, since no writer keeps comments."""

import json
import re
from collections.abc import Mapping
from typing import Any, cast

_PLAIN = re.compile(r"[A-Za-z_~./][\w./~@+-]*(?::[\w./=-]+)?")
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n", "~"})
_LONGEST = 30
"""Columns before the comments at the most; a longer line has its comment right behind it."""


def scalar(value: Any) -> str:
    """One value as YAML 1.1 and gruppo read it back."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, (int, float)):
        # With a point before the exponent it is a number to YAML 1.1 too.
        return re.sub(r"^(-?\d+)e", r"\1.0e", f"{value:g}") if isinstance(value, float) else str(value)
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else json.dumps(text, ensure_ascii=False)


def flow(value: Any) -> str:
    """A value on one line: `{name: qa, levels: [1, 0.5, 0]}`."""
    if isinstance(value, dict):
        items = cast(dict[str, Any], value).items()
        return "{" + ", ".join(f"{name}: {flow(inner)}" for name, inner in items) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(flow(inner) for inner in cast(list[Any], value)) + "]"
    return scalar(value)


def lines(values: Mapping[str, Any], comments: Mapping[str, str], prefix: str = "") -> list[str]:
    """`name: value   # comment`, with sections below each other.

    Args:
        values: by option; a section's are a mapping.
        comments: by dotted name.
        prefix: of the section that these are in, with its dot.
    """
    rows: list[tuple[str, str]] = []
    indent = "  " if prefix else ""
    for name, value in values.items():
        if isinstance(value, dict) and not prefix:
            rows.append((f"{name}:", comments.get(name, "")))
            rows += [_cut(line) for line in lines(cast(dict[str, Any], value), comments, f"{name}.")]
        else:
            rows.append((f"{indent}{name}: {flow(value)}", comments.get(f"{prefix}{name}", "")))
    if prefix:
        return ["\0".join(row) for row in rows]
    width = max((len(text) for text, _ in rows if len(text) <= _LONGEST), default=0)
    return [f"{text:<{width}}  # {comment}" if comment else text for text, comment in rows]


def _cut(line: str) -> tuple[str, str]:
    text, _, comment = line.partition("\0")
    return text, comment
