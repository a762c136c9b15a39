"""Figures and untrusted text as a person reads them, on a terminal, in a log, in a page."""

import unicodedata
from itertools import pairwise

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str, keep: str = "\n") -> str:
    """`text` with everything that can act on a terminal or hide in a page written out as its code point.

    Escape sequences, right-to-left marks, zero-width and private characters and lone surrogates become
    `\\x1b`, `\\u202e` and so on; the characters of `keep` pass. Ordinary text of any script passes unchanged.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or unicodedata.category(c) not in _HIDDEN else _code(c) for c in text)


def _code(char: str) -> str:
    number = ord(char)
    if char == "\t":
        return "\\t"
    if char == "\n":
        return "\\n"
    if char == "\r":
        return "\\r"
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def one_line(text: str, width: int) -> str:
    """`text` on one line of at most `width` characters, control characters visible, an ellipsis where it was
    cut.
    """
    flat = visible(" ".join(text.split()), keep="")
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def duration(seconds: float) -> str:
    """A stretch of time in two units at most: `45 s`, `3 min 20 s`, `2 h 05 min`, `4 d 03 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def number(value: float | None) -> str:
    """A figure in four significant digits, thousands apart: `0.2384`, `4,210`, `1e-6`; `-` for None."""
    if value is None:
        return "-"
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size < 1e-4:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4g}"


def sparkline(values: list[float], width: int = 40) -> str:
    """A curve as one line of block characters, at most `width` wide, each the mean of its share of the
    values.
    """
    if not values:
        return ""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return "▄" * count
    return "".join("▁▂▃▄▅▆▇█"[min(7, int((mean - low) / (high - low) * 8))] for mean in means)
